from __future__ import annotations

import math
import random

import pytest

from evenload.pipeline.spec.sweep import Extrapolate
from evenload.pipeline.states import CurvePoint
from evenload.pipeline.sweep.stopping.comparable_trials import TrialCurve
from evenload.pipeline.sweep.stopping.extrapolate import extrapolated, misses, odds, stops

STEPS = 100


def curve(
    floor: float, scale: float = 2.0, until: int = STEPS, *, noise: float = 0.0, seed: int = 0
) -> list[CurvePoint]:
    """floor + scale * (step/STEPS)^-0.5 at every fifth step; it ends at floor + scale."""
    rng = random.Random(seed)
    return [
        CurvePoint(step, step, 1.0, floor + scale * (step / STEPS) ** -0.5 + rng.gauss(0, noise), 0)
        for step in range(5, until + 1, 5)
    ]


def trial(digest: str, points: list[CurvePoint]) -> TrialCurve:
    return TrialCurve(digest, tuple(points), STEPS, may_stop=points[-1].step < STEPS)


FINISHED = [curve(floor, noise=0.003, seed=n) for n, floor in enumerate((1.0, 1.1, 1.2, 1.3))]


def test_a_power_law_is_recovered() -> None:
    forecast = extrapolated(curve(1.0, until=40), STEPS)
    assert forecast is not None
    assert forecast.loss == pytest.approx(3.0, abs=0.01)
    assert forecast.residual < 0.002


def test_a_curve_that_rises_is_not_extrapolated_downward() -> None:
    rising = [CurvePoint(step, step, 1.0, 1 + 0.01 * step, 0) for step in range(5, 45, 5)]
    forecast = extrapolated(rising, STEPS)
    assert forecast is not None
    assert forecast.loss >= min(point.val_loss for point in rising)


@pytest.mark.parametrize("points", [[], curve(1.0, until=15)], ids=["none", "three"])
def test_too_few_points_give_no_forecast(points: list[CurvePoint]) -> None:
    assert extrapolated(points, STEPS) is None


def test_a_drop_that_all_curves_share_corrects_the_forecast() -> None:
    """A decaying learning rate lowers every curve by 0.3 after step 60."""

    def bent(floor: float, until: int = STEPS, seed: int = 0) -> list[CurvePoint]:
        return [
            CurvePoint(p.step, p.step, 1.0, p.val_loss - 0.3 * (p.step > 60), 0)
            for p in curve(floor, until=until, noise=0.003, seed=seed)
        ]

    missed = misses([bent(1 + n / 10, seed=n) for n in range(4)], 50, STEPS)
    found = odds(bent(1.5, until=50, seed=9), STEPS, missed, limit=3)
    assert found is not None
    assert found.expected == pytest.approx(3.5 - 0.3, abs=0.05)


def test_the_probability_is_calibrated() -> None:
    """The probability of the loss that a trial will really reach is uniform over many trials."""
    found_p: list[float] = []
    for trial in range(60):
        base = 1000 * trial
        done = [curve(1 + n / 10, noise=0.02, seed=base + n) for n in range(4)]
        running = curve(1.0, until=50, noise=0.02, seed=base + 9)
        whole = curve(1.0, noise=0.02, seed=base + 9)
        found = odds(running, STEPS, misses(done, 50, STEPS), whole[-1].val_loss)
        assert found is not None
        found_p.append(found.probability)
    assert 0 < sum(p < 0.2 for p in found_p) < 60 * 0.35
    assert 0.3 < sum(p < 0.5 for p in found_p) / 60 < 0.7


def test_the_hopeless_trial_is_stopped_and_the_best_continues() -> None:
    policy = Extrapolate()
    finished = [trial(f"done{n}", points) for n, points in enumerate(FINISHED)]
    worse = trial("worse", curve(1.8, until=40, noise=0.003, seed=20))
    better = trial("better", curve(0.9, until=40, noise=0.003, seed=21))
    verdicts = dict(stops(policy, [*finished, worse, better]))
    assert verdicts.keys() == {"worse"}
    assert "after step 40 a final held-out loss of at most" in verdicts["worse"]
    probability = float(verdicts["worse"].split("has probability ")[1].split()[0])
    assert 0 < probability < policy.threshold


def test_no_trial_is_stopped_too_early_or_with_too_few_finished_ones() -> None:
    finished = [trial(f"done{n}", points) for n, points in enumerate(FINISHED)]
    worse = trial("worse", curve(1.8, until=40, noise=0.003, seed=20))
    assert list(stops(Extrapolate(from_share=0.5), [*finished, worse])) == []
    assert list(stops(Extrapolate(finished=5), [*finished, worse])) == []
    assert len(list(stops(Extrapolate(finished=4), [*finished, worse]))) == 1


def test_equal_errors_do_not_give_an_infinite_or_undefined_probability() -> None:
    found = odds(curve(1.0, until=40), STEPS, [0.1, 0.1], limit=3.0)
    assert found is not None
    assert math.isfinite(found.probability)
