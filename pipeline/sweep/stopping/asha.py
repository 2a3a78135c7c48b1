"""Asynchronous successive halving: of all trials one in eta goes on from every rung."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence

from evenload.pipeline.spec.sweep import Asha
from evenload.pipeline.states import CurvePoint
from evenload.pipeline.sweep.stopping.comparable_trials import TrialCurve


def stops(policy: Asha, trials: Sequence[TrialCurve]) -> Iterator[tuple[str, str]]:
    """Stops who cannot be among those that go on from a rung, whatever is still to come.

    From the first rung one in eta of all listed trials goes on, from the next one in eta of
    these, and so on. Nobody waits at a rung. Nobody is stopped within `slack` of the best loss at
    it, nor whom synchronous halving would have kept.

    Source:   Li et al. 2018, arXiv:1810.05934. Differs: it promotes by the rank among those that
              came first and may take a trial up again later; what is stopped here stays stopped,
              so a rank must be certain.
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
                    f"asha: held-out loss {loss:.4f} at step {rung} is number {rank} (best "
                    f"{ranked[0]:.4f}); of {len(trials)} trials {places} may go on from there",
                )


def rungs(policy: Asha, steps: int) -> list[int]:
    """Steps at which trials are judged, a factor eta apart, all before the end."""
    found: list[int] = []
    rung = max(1, round(policy.first_rung * steps))
    while rung < steps:
        found.append(rung)
        rung *= policy.eta
    return found


def _loss_at(curve: Sequence[CurvePoint], rung: int) -> float | None:
    """At the first point from the rung on; a loss that is no number is the worst."""
    for point in curve:
        if point.step >= rung:
            return point.val_loss if math.isfinite(point.val_loss) else math.inf
    return None
