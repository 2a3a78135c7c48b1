"""Asynchronous successive halving: one in eta of all trials continues after every rung."""

import bisect
import math
from collections.abc import Iterator, Sequence

from evenload.pipeline.spec.sweep import Asha
from evenload.pipeline.states import CurvePoint
from evenload.pipeline.sweep.stopping.comparable_trials import TrialCurve


def stops(policy: Asha, trials: Sequence[TrialCurve]) -> Iterator[tuple[str, str]]:
    """Stops trials that cannot be among those that continue, however the others turn out.

    After the first rung one in eta of all listed trials continues, after the second rung one in eta
    of these, and so on. No trial waits at a rung. A trial is not stopped if its loss is within
    `slack` of the best one at the rung, or if synchronous halving would keep it.

    Source:   Li et al. 2018, arXiv:1810.05934. Differs: the paper ranks a trial among those that
              reached the rung first and may resume it later. Here stopping is final, so the rank
              must be certain.
    """
    places, named = len(trials), set[str]()
    for rung in rungs(policy, trials[0].steps):
        places = math.ceil(places / policy.eta)
        losses = {c.digest: loss for c in trials if (loss := _loss_at(c.curve, rung)) is not None}
        ranked = sorted(losses.values())
        for trial in trials:
            loss = losses.get(trial.digest)
            if loss is None or not trial.may_stop or trial.digest in named:
                continue
            rank = 1 + bisect.bisect_left(ranked, loss)
            if rank > places and loss > ranked[0] * (1 + policy.slack):
                named.add(trial.digest)
                yield (
                    trial.digest,
                    f"asha: held-out loss {loss:.4f} at step {rung} has rank {rank} (best "
                    f"{ranked[0]:.4f}); {places} of {len(trials)} trials may continue after it",
                )


def rungs(policy: Asha, steps: int) -> list[int]:
    """The steps at which trials are ranked: a factor eta apart, and all before the last step."""
    found: list[int] = []
    rung = max(1, round(policy.first_rung * steps))
    while rung < steps:
        found.append(rung)
        rung *= policy.eta
    return found


def _loss_at(curve: Sequence[CurvePoint], rung: int) -> float | None:
    """The loss at the first point at or after the rung; infinite if it is not a number."""
    for point in curve:
        if point.step >= rung:
            return point.val_loss if math.isfinite(point.val_loss) else math.inf
    return None
