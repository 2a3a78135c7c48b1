"""Tables that compare runs of different sizes, by rank of the expert and depth of the layer.

Experts of different runs do not correspond, and their numbers may differ. So the experts of a
layer are sorted, busiest first, and read at shares of their number, and layers at shares of the
depth.

Shape suffixes: L expert layers, E experts, Q shares of the experts, D shares of the depth.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenload.dashboard.record_tables import leaves, spec_of
from evenload.dashboard.shown_runs import Run, figure_of, outline_of
from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE, LossUnit
from evenload.pipeline.records.recorded_runs import RecordedRun

MOST_RUNS = 8
CELLS = 64  # number of shares of the experts in a map
UNLISTED = ("train.seed",)  # differences that are not listed

FIGURES = (
    "val_bits_per_byte",
    "max_vio",
    "max_vio_floor",
    "max_vio_ratio",
    "idle_frac",
    "effective_util",
    "tokens_per_second",
)

Percent = NDArray[np.int16]


def by_rank(percent_LE: Percent) -> Percent:
    """The loads of each layer, busiest expert first."""
    return -np.sort(-percent_LE, axis=-1)


def at_shares(percent_LE: Percent, cells: int = CELLS) -> NDArray[np.int16]:
    """The largest load in each of `cells` equal shares of the experts, by rank.

    If there are fewer experts than shares, an expert fills several of them.
    """
    E = percent_LE.shape[-1]
    first_Q = np.arange(cells) * E // cells  # the first expert of a share has its largest load
    return by_rank(percent_LE)[:, first_Q]


def at_depths(value_LQ: NDArray[Any], rows: int) -> NDArray[Any]:
    """The values of the layer in the middle of each of `rows` equal shares of the depth."""
    L = len(value_LQ)
    return value_LQ[((np.arange(rows) + 0.5) * L / rows).astype(int)]


def difference(percent_LE: Percent, reference_LE: Percent) -> NDArray[np.int16]:
    """Load minus that of the reference, in percentage points of the fair share; shape (D, Q).

    D is the larger number of layers. The difference is 0 if one of them was not counted.
    """
    rows = max(len(percent_LE), len(reference_LE))
    one_DQ, other_DQ = (at_depths(at_shares(values), rows) for values in (percent_LE, reference_LE))
    counted = (one_DQ >= 0) & (other_DQ >= 0)
    return np.where(counted, one_DQ.astype(np.int32) - other_DQ, 0).astype(np.int16)


def comparison_table(runs: Mapping[str, Run], unit: LossUnit = BITS_PER_BYTE) -> pd.DataFrame:
    """One row per run: its size and its figures, with shares in percent."""
    rows = []
    for name, run in runs.items():
        shape, tokens, steps, _ = outline_of(run)
        rows.append(
            {
                "run": name,
                "state": str(run.state() if isinstance(run, RecordedRun) else run.state),
                "experts": shape.num_experts,
                "top_k": shape.top_k,
                "layers": shape.num_layers,
                "tokens_per_step": tokens,
                "steps": run.last_step if isinstance(run, RecordedRun) else steps,
                **{figure_name: figure_of(run, figure_name, unit) for figure_name in FIGURES},
            }
        )
    return pd.DataFrame(rows)


def spec_differences(runs: Mapping[str, Run]) -> pd.DataFrame:
    """One row per setting in which the runs differ, and one column per run."""
    flat = {name: dict(leaves(_settings(run))) for name, run in runs.items()}
    keys = dict.fromkeys(key for spec in flat.values() for key in spec)
    rows = [
        {"setting": key} | {name: str(spec.get(key, "–")) for name, spec in flat.items()}
        for key in keys
        if key not in UNLISTED and len({str(spec.get(key, "–")) for spec in flat.values()}) > 1
    ]
    return pd.DataFrame(rows, columns=["setting", *flat])


def incomparable(runs: Sequence[Run]) -> list[str]:
    """The reasons why the losses of these runs are not comparable; empty if they are."""
    specs = [spec_of(run) for run in runs if not isinstance(run, RecordedRun)]
    reasons = []
    if len(specs) < len(runs):
        reasons.append("what a recorded run reads is not known, and no held-out text was scored")
    if len({spec.data.model_dump_json() for spec in specs}) > 1:
        reasons.append("they read different data")
    if len({spec.train.steps * spec.train.tokens_per_step for spec in specs}) > 1:
        reasons.append("they train on different numbers of tokens")
    if any(spec.balancer.kind == "expert_choice" for spec in specs):
        reasons.append("expert choice sees later tokens")
    return reasons


def _settings(run: Run) -> dict[str, Any]:
    if not isinstance(run, RecordedRun):
        return run.spec
    rule = run.balancer.model_dump(mode="json") if run.balancer else None
    model = {"num_experts": run.shape.num_experts, "top_k": run.shape.top_k}
    return {"source": run.source, "model": model, "balancer": rule}
