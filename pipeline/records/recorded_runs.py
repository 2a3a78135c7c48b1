"""Runs whose loads evenload recorded but did not train: attached models and imported records.

    <home>/runs/<id>/run.json      what it is and how far it is: `RecordedRun`
    <home>/runs/<id>/expert_load/  as in a trial's folder, see shards.py
    <home>/runs/<id>/steps/        likewise; figures that nobody told are NaN

The id is the name with small letters, and a number where a former run has that name. A model whose
layers have different numbers of experts or another top-k gives one run for each kind of layer.

Letters: S steps, L expert layers, E experts.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.loads import Loads, dead_tenth, effective_util, idle_frac, max_vio
from evenload.pipeline.records.shards import parts, read_history
from evenload.pipeline.spec.balancers import Balancer
from evenload.pipeline.spec.load_shape import LoadShape, RunOutline
from evenload.pipeline.spec.spec_file import Frozen, NonNegativeInt, PositiveInt

FOLDER, FILE = "runs", "run.json"
LATEST_STEPS = 1000  # largest number of steps that figures are computed from
STALE_SECONDS, STALE_STEPS = 120.0, 10  # a live run is never silent for longer than both


class RunState(StrEnum):
    LIVE = "live"
    ENDED = "ended"
    STALE = "stale"  # no step for long, and no end: it was killed, or it hangs


class RecordedRun(Frozen):
    """A run as far as it is recorded."""

    run_id: str  # name of its folder
    name: str  # as the user called it
    source: str  # what recorded it: `attach`, or `import` and a format
    shape: LoadShape
    balancer: Balancer | None = None  # the rule that moved the biases; null: not known
    unit: str = ""  # of a bias and of a step size, as probability or logit; empty: not known
    planned_steps: PositiveInt | None = None  # of the whole training; null: not known
    writer: str = ""  # host and id of the process that writes it
    started: datetime
    updated: datetime  # when the last step was written
    ended: datetime | None = None  # when its writer closed it; null: it is live, or it was killed
    last_step: NonNegativeInt = 0
    step_seconds: float = 0.0  # time of a step; 0: not known
    dropped_steps: NonNegativeInt = 0  # steps that are missing because they could not be written
    errors: NonNegativeInt = 0  # failures of store and disk, which never stop a training
    has_loss: bool = False  # whether the loss of a step was told
    folder: Path = Path()  # where it was found; not written

    @property
    def label(self) -> str:
        return "not known" if self.balancer is None else self.balancer.label

    @property
    def outline(self) -> RunOutline:
        """Tokens per step vary, and a training may go beyond its plan, so neither is known."""
        target = None if self.balancer is None else self.balancer.target
        return RunOutline(self.shape, None, None, target)

    def state(self, now: datetime | None = None) -> RunState:
        if self.ended is not None:
            return RunState.ENDED
        silent = ((now or datetime.now(UTC)) - self.updated).total_seconds()
        limit = max(STALE_SECONDS, STALE_STEPS * self.step_seconds)
        return RunState.STALE if silent > limit else RunState.LIVE

    def figures(self) -> dict[str, float]:
        """Means over layers and the last quarter of the steps, at most LATEST_STEPS of them.

        By the names in METRICS; without recorded steps all are NaN.
        """
        quarter = min(LATEST_STEPS, max(1, self.last_step // 4))
        first = max(1, self.last_step - quarter + 1)
        count_SLE = read_history(self.folder, first=first, columns=["load"]).count_SLE
        if not count_SLE.size:
            return dict.fromkeys(FIGURES, math.nan)
        target = self.outline.target_E
        # A layer may see fewer tokens than the others, but never more.
        tokens = round(count_SLE.sum(axis=-1).max(axis=-1).mean() / self.shape.top_k)
        chance = Loads(count_SLE, tokens, self.shape.top_k, target)
        recent_LE = count_SLE[-chance.dead_window :].sum(axis=0, dtype=np.int64)
        with np.errstate(invalid="ignore", divide="ignore"):
            vio, floor = float(np.nanmean(max_vio(count_SLE, target))), chance.max_vio_floor
            values = (
                vio,
                floor,
                vio / floor if floor > 0 else math.nan,
                float(np.nanmean(idle_frac(count_SLE))),
                chance.idle_expected,
                float(np.nanmean(dead_tenth(recent_LE, target))),
                float(np.nanmean(effective_util(count_SLE, target))),
            )
        return dict(zip(FIGURES, values, strict=True))


FIGURES = (
    "max_vio",
    "max_vio_floor",
    "max_vio_ratio",
    "idle_frac",
    "idle_expected",
    "dead_tenth",
    "effective_util",
)


def recorded_runs(home: Path) -> list[RecordedRun]:
    """The recorded runs of a home, newest first. Folders that are no runs are left out."""
    found = (_read(path.parent) for path in (home / FOLDER).glob(f"*/{FILE}"))
    return sorted((run for run in found if run), key=lambda run: run.started, reverse=True)


def recorded_run(home: Path, name: str) -> RecordedRun:
    """The run of this id, else the newest of this name.  Raises: SpecError: there is none"""
    run = found_run(home, name)
    if run is None:
        known = ", ".join(run.run_id for run in recorded_runs(home)[:5]) or "none"
        raise SpecError(
            f"run={name!r} is not recorded in {home / FOLDER} (there: {known}); `evenload runs` "
            "lists recorded runs"
        )
    return run


def found_run(home: Path, name: str) -> RecordedRun | None:
    """As `recorded_run`; None if there is none."""
    runs = recorded_runs(home)
    same = [run for run in runs if run.run_id == name] or [run for run in runs if run.name == name]
    return same[0] if same else None


def facts(run: RecordedRun) -> Sequence[tuple[str, str]]:
    """What is known of a run, by title."""
    planned = f" of {run.planned_steps:,}" if run.planned_steps else ""
    shape = run.shape
    return (
        ("Name", run.name),
        ("Id", run.run_id),
        ("Source", run.source),
        ("Rule", run.label),
        ("Unit of a bias", run.unit or "not known"),
        ("Layers", f"{shape.num_layers}: {', '.join(shape.layers)}"),
        ("Experts", f"top {shape.top_k} of {shape.num_experts}"),
        ("Steps", f"{run.last_step:,}{planned}"),
        ("Steps that are missing", f"{run.dropped_steps:,}"),
        ("Failures of store and disk", f"{run.errors:,}"),
        ("State", str(run.state())),
        ("Started (UTC)", f"{run.started:%Y-%m-%d %H:%M:%S}"),
        ("Last step (UTC)", f"{run.updated:%Y-%m-%d %H:%M:%S}"),
    )


def _read(folder: Path) -> RecordedRun | None:
    try:
        run = RecordedRun.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    found = parts(folder / "expert_load")
    # Shards are newer than the file if the writer was killed in between.
    last = max(run.last_step, found[-1].last if found else 0)
    return run.model_copy(update={"folder": folder, "last_step": last})
