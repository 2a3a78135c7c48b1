"""Asynchronous successive halving: at every rung one in eta goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pipeline.records import CurvePoint
from pipeline.sweep.stopping.contest import Contestant
from pipeline.sweep_spec import Asha


def stops(policy: Asha, contest: Sequence[Contestant]) -> Iterator[tuple[str, str]]:
    """Judges every trial at the highest rung that it has reached, among all that reached it.

    Nobody is stopped before `eta` trials have reached the rung, nor within `slack` of its best
    loss. A trial that was good enough when it came is judged again as others follow.

    Source:   Li et al. 2018, arXiv:1810.05934, in the stopping form of its section 3.3: nothing
              waits at a rung to be promoted. Differs: slack, and judging again.
    """
    for contestant in contest:
        if not contestant.may_stop:
            continue
        reached = [rung for rung in rungs(policy, contestant.steps) if rung <= contestant.step]
        if reached:
            reason = _reason(policy, contestant, contest, reached[-1])
            if reason is not None:
                yield contestant.digest, reason


def rungs(policy: Asha, steps: int) -> list[int]:
    """Steps at which trials are judged, a factor eta apart, all before the end."""
    found: list[int] = []
    rung = max(1, round(policy.first_rung * steps))
    while rung < steps:
        found.append(rung)
        rung *= policy.eta
    return found


def _reason(
    policy: Asha, contestant: Contestant, contest: Sequence[Contestant], rung: int
) -> str | None:
    losses = [loss for other in contest if (loss := _loss_at(other.curve, rung)) is not None]
    mine = _loss_at(contestant.curve, rung)
    assert mine is not None
    best, rank = min(losses), 1 + sum(loss < mine for loss in losses)
    is_in = rank <= math.ceil(len(losses) / policy.eta)
    if len(losses) < policy.eta or is_in or mine <= best * (1 + policy.slack):
        return None
    return (
        f"asha: held-out loss {mine:.4f} at step {rung} is number {rank} of {len(losses)} "
        f"(best {best:.4f}); one in {policy.eta} goes on"
    )


def _loss_at(curve: Sequence[CurvePoint], rung: int) -> float | None:
    """At the first point from the rung on; a loss that is no number is the worst."""
    for point in curve:
        if point.step >= rung:
            return point.val_loss if math.isfinite(point.val_loss) else math.inf
    return None
