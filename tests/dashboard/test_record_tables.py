from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evenload.dashboard import record_tables
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import (
    AttemptRecord,
    AttemptState,
    Progress,
    SweepOverview,
    SweepRecord,
    SweepState,
    TrialRecord,
    TrialState,
    WorkKind,
)
from evenload.pipeline.sweep.axes import axes_of

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
Trial = Callable[..., TrialRecord]


@pytest.fixture
def trial() -> Trial:
    def make(balancer: dict[str, Any], experts: int = 16, seed: int = 0, **fields: Any) -> Any:
        spec = TrialSpec.model_validate(
            {
                "model": {"preset": "tiny", "num_experts": experts},
                "balancer": balancer,
                "train": {"steps": 100, "batch_sequences": 4, "seq_len": 32, "seed": seed},
            }
        )
        blank = {field.name: None for field in dataclasses.fields(TrialRecord)}
        known = {
            "digest": spec.digest("corpus", "core"),
            "label": spec.balancer.label,
            "spec": spec.model_dump(mode="json"),
            "state": TrialState.QUEUED,
            "attempt": 0,
            "failures": 0,
            "result": {},
            "created_at": NOON,
        }
        return TrialRecord(**(blank | known | fields))

    return make


def _sign(step_size: float) -> dict[str, Any]:
    return {"kind": "sign", "step_size": step_size}


def _done(**result: float) -> dict[str, Any]:
    return {"state": TrialState.COMPLETED, "result": result}


def _sweep(state: SweepState = SweepState.ACTIVE, hours_ago: int = 0) -> SweepRecord:
    created = NOON - timedelta(hours=hours_ago)
    return SweepRecord(f"demo-{hours_ago}", "demo", {}, state, None, created, None)


def test_shares_are_shown_as_percent(trial: Trial) -> None:
    trials = [trial(_sign(0.1), **_done(idle_frac=0.125, effective_util=0.8))]
    table = record_tables.trial_table(trials, axes_of(trials))
    assert table.idle_frac.tolist() == [12.5]
    assert table.effective_util.tolist() == [80.0]
    assert math.isnan(table.val_bits_per_byte[0])


def test_step_size_of_a_rule_without_one_is_nan(trial: Trial) -> None:
    kinds = [{"kind": "none"}, _sign(0.1), {"kind": "aux_loss", "coefficient": 0.02}]
    trials = [trial(kind) for kind in kinds]
    table = record_tables.trial_table(trials, axes_of(trials))
    assert math.isnan(table.step_size[0])
    assert table.step_size.tolist()[1:] == [0.1, 0.02]


def test_progress_counts_steps_and_takes_failed_trials_as_over(trial: Trial) -> None:
    half = Progress(50, 100, 6400, 1000.0, 2.0, 0.5)
    trials = [
        trial(_sign(0.1), **_done()),
        trial(_sign(0.2), state=TrialState.TRAINING, progress=half),
        trial(_sign(0.3), state=TrialState.FAILED, progress=half),
        trial(_sign(0.4)),
    ]
    assert record_tables.progress(trials) == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    assert record_tables.trial_table(trials, axes_of(trials)).progress.tolist() == [100, 50, 50, 0]
    assert record_tables.progress([]) == 0


def test_time_left_is_extrapolated(trial: Trial) -> None:
    trials = [
        trial(_sign(0.1), started_at=NOON, **_done()),
        trial(_sign(0.2)),
        trial(_sign(0.3)),
        trial(_sign(0.4)),
    ]
    now = NOON + timedelta(minutes=10)
    assert record_tables.eta_seconds(_sweep(), trials, now) == pytest.approx(1800)
    assert math.isnan(record_tables.eta_seconds(_sweep(SweepState.PAUSED), trials, now))
    assert math.isnan(record_tables.eta_seconds(_sweep(), trials[1:], now))


def test_elapsed_time_ends_with_the_last_trial(trial: Trial) -> None:
    end = NOON + timedelta(seconds=90)
    over = [trial(_sign(0.1), started_at=NOON, finished_at=end, **_done())]
    later = NOON + timedelta(hours=1)
    assert record_tables.elapsed_seconds(over, later) == 90
    assert record_tables.elapsed_seconds([*over, trial(_sign(0.2))], later) == 3600
    assert math.isnan(record_tables.elapsed_seconds([trial(_sign(0.2))], later))


def test_sweeps_are_sorted_newest_first() -> None:
    older = SweepOverview(_sweep(hours_ago=5), {TrialState.QUEUED: 1}, 0.0, None, None)
    newer = SweepOverview(_sweep(), {}, 0.0, None, None)
    table = record_tables.sweep_table([older, newer])
    assert table.sweep_id.tolist() == ["demo-0", "demo-5"]
    assert table.trials.tolist() == [0, 1]
    assert record_tables.sweep_table([]).empty


def test_labels_have_seed_and_digest_only_if_needed(trial: Trial) -> None:
    alone, *seeds = trial(_sign(0.1)), trial(_sign(0.2)), trial(_sign(0.2), seed=1)
    labels = record_tables.trial_labels([alone, *seeds])
    assert labels[alone.digest] == "sign 0.1, 16 experts"
    assert labels[seeds[1].digest] == f"sign 0.2, 16 experts, seed 1 ({seeds[1].digest[:6]})"


def test_every_axis_has_a_column_and_is_in_the_labels(trial: Trial) -> None:
    """Trials that differ in learning rate and top-k can be told apart everywhere."""
    trials = []
    for rate, top_k in ((0.001, 1), (0.001, 2), (0.01, 1), (0.01, 2)):
        made = trial(_sign(0.1))
        model = made.spec["model"] | {"top_k": top_k}
        train = made.spec["train"] | {"learning_rate": rate}
        digest = f"{rate}-{top_k}"
        spec = made.spec | {"model": model, "train": train}
        trials.append(dataclasses.replace(made, digest=digest, spec=spec))
    axes = axes_of(trials)
    table = record_tables.trial_table(trials, axes)
    assert table["train.learning_rate"].tolist() == [0.001, 0.001, 0.01, 0.01]
    assert table["model.top_k"].tolist() == [1, 2, 1, 2]
    assert list(record_tables.trial_labels(trials).values())[1] == (
        "sign 0.1 learning_rate=0.001, 16 experts, top_k=2"
    )


def test_final_figures_have_their_meaning(trial: Trial) -> None:
    done = _done(max_vio=0.123456, idle_frac=0.0, of_another_version=0.123456)
    table = record_tables.figure_table(trial(_sign(0.1), **done)).set_index("Name")
    assert table.Value[["max_vio", "idle_frac", "dead_tenth"]].tolist() == ["0.12", "0.0%", "–"]
    assert table.Value["of_another_version"] == "0.1235"
    assert table.Meaning["max_vio"] == METRICS["max_vio"].meaning
    assert record_tables.figure_table(trial(_sign(0.1))).empty


def test_attempt_table_has_duration_and_reason() -> None:
    attempt = AttemptRecord(
        "d", 2, WorkKind.TRAIN, "worker-a", AttemptState.LOST, NOON, NOON, NOON,
        NOON + timedelta(seconds=65), "lease expired",
    )  # fmt: skip
    (row,) = record_tables.attempt_table([attempt]).to_dict("records")
    assert (row["Ran for"], row["State"], row["Ended because"]) == (
        "1 min 05 s",
        "lost",
        "lease expired",
    )
