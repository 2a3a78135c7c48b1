from __future__ import annotations

from collections.abc import Callable
from typing import Any

from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import CurvePoint, TrialRecord
from evenload.pipeline.sweep.axes import Axes
from evenload.pipeline.sweep.targets import crossing, target_rows

Row = Callable[..., TrialRecord]
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 30, "batch_sequences": 4, "seq_len": 16},
}


def trial(kind: str = "sign", seed: int = 0) -> TrialSpec:
    train = BASE["train"] | {"seed": seed}
    return TrialSpec.model_validate(BASE | {"train": train, "balancer": {"kind": kind}})


def curve(*losses: float) -> list[CurvePoint]:
    """A curve with points at steps 10, 20, ... and 100 tokens and 2 seconds per step."""
    return [CurvePoint(10 * n, 1000 * n, 20.0 * n, loss, 0.1) for n, loss in enumerate(losses, 1)]


def test_the_crossing_is_linear_between_points() -> None:
    assert crossing(curve(4, 3, 2, 1), 2.5) == (2500.0, 50.0)
    assert crossing(curve(4, 3, 2, 1), 3) == (2000.0, 40.0)
    assert crossing(curve(4, 3), 5) == (1000.0, 20.0)


def test_the_first_crossing_counts() -> None:
    assert crossing(curve(4, 2, 3, 1), 2.0) == (2000.0, 40.0)


def test_a_setting_that_mostly_misses_the_target_keeps_its_row(row: Row) -> None:
    rows = [row(trial(seed=seed)) for seed in range(3)]
    curves = {
        rows[0].digest: curve(4, 3, 2),
        rows[1].digest: curve(5, 4, 3.5),
        rows[2].digest: curve(6, 5, 4),
    }
    [found] = target_rows(rows, curves, 2.5, Axes())
    assert (found.trials, found.reached) == (3, 1)
    assert (found.tokens, found.seconds) == (None, None)
    assert found.final_loss.mean == (2 + 3.5 + 4) / 3


def test_the_median_includes_trials_that_missed_the_target(row: Row) -> None:
    rows = [row(trial(seed=seed)) for seed in range(3)]
    curves = {
        rows[0].digest: curve(4, 2.5, 2),
        rows[1].digest: curve(4, 3, 2.5),
        rows[2].digest: curve(6, 5, 4),
    }
    [found] = target_rows(rows, curves, 2.5, Axes())
    assert (found.reached, found.tokens, found.seconds) == (2, 3000.0, 60.0)


def test_the_default_target_is_the_final_loss_without_balancing(row: Row) -> None:
    plain, balanced = row(trial("none")), row(trial())
    curves = {plain.digest: curve(4, 3.5, 3), balanced.digest: curve(4, 3, 2)}
    rows = {found.label: found for found in target_rows([plain, balanced], curves, None, Axes())}
    assert {found.target_loss for found in rows.values()} == {3.0}
    assert rows["none"].tokens == 3000.0
    assert rows["sign 0.001"].tokens == 2000.0


def test_a_trial_that_was_stopped_early_has_no_loss_at_the_budget(row: Row) -> None:
    whole, stopped = row(trial()), row(trial("quantile"))
    curves = {whole.digest: curve(4, 3, 2), stopped.digest: curve(4, 3.9)}
    assert [found.label for found in target_rows([whole, stopped], curves, 2.5, Axes())] == [
        "sign 0.001"
    ]


def test_trials_without_a_curve_have_no_row(row: Row) -> None:
    assert target_rows([row(trial())], {}, 2.0, Axes()) == ()
