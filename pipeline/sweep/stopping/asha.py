"""Asynchronous successive halving: of all trials one in eta goes on from every rung."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pipeline.records import CurvePoint
from pipeline.sweep.stopping.contest import Contestant
from pipeline.sweep_spec import Asha


def stops(policy: Asha, contest: Sequence[Contestant]) -> Iterator[tuple[str, str]]:
    """Stops who cannot be among those that go on from a rung, whatever is still to come.

    From the first rung one in eta of all listed trials goes on, from the next one in eta of
    these, and so on. Nobody waits at a rung. Nobody is stopped within `slack` of the best loss at
    it, nor whom synchronous halving would have kept.

    Source:   Li et al. 2018, arXiv:1810.05934. Differs: it promotes by the rank among those that
              came first and may take a trial up again later; what is stopped here stays stopped,
              so a rank must be certain.
    """
    for contestant in contest:
        if not contestant.may_stop:
            continue
        places = len(contest)
        for rung in rungs(policy, contestant.steps):
            places = math.ceil(places / policy.eta)
            reason = _reason(policy, contestant, contest, rung, places)
            if reason is not None:
                yield contestant.digest, reason
                break


def rungs(policy: Asha, steps: int) -> list[int]:
    """Steps at which trials are judged, a factor eta apart, all before the end."""
    found: list[int] = []
    rung = max(1, round(policy.first_rung * steps))
    while rung < steps:
        found.append(rung)
        rung *= policy.eta
    return found


def _reason(
    policy: Asha, contestant: Contestant, contest: Sequence[Contestant], rung: int, places: int
) -> str | None:
    mine = _loss_at(contestant.curve, rung)
    if mine is None:
        return None
    losses = [loss for other in contest if (loss := _loss_at(other.curve, rung)) is not None]
    best, rank = min(losses), 1 + sum(loss < mine for loss in losses)
    if rank <= places or mine <= best * (1 + policy.slack):
        return None
    go_on = "1 goes" if places == 1 else f"{places} go"
    return (
        f"asha: held-out loss {mine:.4f} at step {rung} is number {rank} (best {best:.4f}); of "
        f"{len(contest)} trials {go_on} on from there"
    )


def _loss_at(curve: Sequence[CurvePoint], rung: int) -> float | None:
    """At the first point from the rung on; a loss that is no number is the worst."""
    for point in curve:
        if point.step >= rung:
            return point.val_loss if math.isfinite(point.val_loss) else math.inf
    return None
