"""Extrapolates learning curves, to stop trials that will probably not reach the best loss.

Letters: P points of a curve, X exponents.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

from evenload.pipeline.spec.sweep import Extrapolate
from evenload.pipeline.states import CurvePoint
from evenload.pipeline.sweep.stopping.comparable_trials import TrialCurve

Numbers = NDArray[np.float64]
EXPONENTS = np.geomspace(0.05, 3.0, 40)
MIN_POINTS = 4
IGNORED_SHARE = 0.1  # start of the curve that is left out, because it does not follow a power law


class Forecast(NamedTuple):
    """The power law fitted to a curve, evaluated at the last step."""

    loss: float
    residual: float  # root mean square error of the fit, nats


class Odds(NamedTuple):
    """The probability of a final loss at or below a limit, by Student's t."""

    probability: float
    expected: float  # final loss
    spread: float


def stops(policy: Extrapolate, trials: Sequence[TrialCurve]) -> Iterator[tuple[str, str]]:
    """Stops trials for which P(final loss <= best final loss) is below the threshold.

    Source:   Domhan, Springenberg, Hutter 2015, IJCAI (the rule). Differs: there is one family of
              curves, and the error of its forecasts is measured and not assumed, see `odds`.
    """
    finals = {c.digest: c.final_loss for c in trials if c.final_loss is not None}
    if len(finals) < policy.finished:
        return
    best = min(finals.values())
    limit = best * (1 + policy.slack)
    finished = [c.curve for c in trials if c.digest in finals]
    missed_at: dict[int, list[float]] = {}
    for trial in trials:
        step, steps = trial.step, trial.steps
        if not trial.may_stop or step < policy.from_share * steps:
            continue
        if step not in missed_at:
            missed_at[step] = misses(finished, step, steps)
        found = odds(trial.curve, steps, missed_at[step], limit)
        if found is not None and found.probability < policy.threshold:
            yield (
                trial.digest,
                f"extrapolate: after step {step} a final held-out loss of at most {limit:.4f} has "
                f"probability {found.probability:.2g} (expected {found.expected:.4f} ± "
                f"{found.spread:.4f}; best of {len(finished)} finished {best:.4f})",
            )


def misses(finished: Sequence[Sequence[CurvePoint]], step: int, steps: int) -> list[float]:
    """Final loss minus its forecast from the part up to `step`, for every finished curve."""
    return [
        whole[-1].val_loss - past.loss
        for whole in finished
        if (past := extrapolated([p for p in whole if p.step <= step], steps)) is not None
    ]


def odds(
    curve: Sequence[CurvePoint], steps: int, missed: Sequence[float], limit: float
) -> Odds | None:
    """The probability that a curve ends at or below `limit`; None if it is too short to tell.

    The errors of forecasts for finished curves from the same step (`missed`) are a sample of this
    forecast's error. Their mean corrects the forecast, because a decaying learning rate lets every
    curve end below its power law. Their spread gives the probability by Student's t.
    """
    forecast = extrapolated(curve, steps)
    if forecast is None or len(missed) < 2:
        return None
    count = len(missed)
    expected = forecast.loss + float(np.mean(missed))
    # A spread of zero would claim certainty because two curves happen to agree.
    variance = float(np.var(missed, ddof=1)) * (1 + 1 / count) + forecast.residual**2
    spread = max(variance**0.5, 1e-9)
    return Odds(float(stdtr(count - 1, (limit - expected) / spread)), expected, spread)


def extrapolated(curve: Sequence[CurvePoint], steps: int) -> Forecast | None:
    """Fits `loss = c + a step^-b` with a >= 0 by least squares; the value at the last step."""
    if not curve:
        return None
    first = IGNORED_SHARE * curve[-1].step
    kept = [p for p in curve if p.step > first and np.isfinite(p.val_loss)]
    if len(kept) < MIN_POINTS:
        return None
    step_P = np.array([float(point.step) for point in kept]) / steps
    loss_P = np.array([point.val_loss for point in kept])
    return _fit(step_P, loss_P)


def _fit(step_P: Numbers, loss_P: Numbers) -> Forecast:
    """The best fit over the exponents X, each by linear least squares.

    Steps are divided by the last one, so that the curve ends at c + a.
    """
    power_XP = step_P ** -EXPONENTS[:, None]
    centred_XP = power_XP - power_XP.mean(axis=1, keepdims=True)
    slope_X = (centred_XP @ loss_P / (centred_XP**2).sum(axis=1)).clip(min=0)
    offset_X = loss_P.mean() - slope_X * power_XP.mean(axis=1)
    rest_XP = loss_P - offset_X[:, None] - slope_X[:, None] * power_XP
    residual_X = np.sqrt((rest_XP**2).mean(axis=1))
    best = int(residual_X.argmin())
    return Forecast(float(offset_X[best] + slope_X[best]), float(residual_X[best]))
