"""Groups trials whose learning curves are comparable."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evenload.pipeline.spec.search_space import value_at
from evenload.pipeline.spec.sweep import Asha, Extrapolate
from evenload.pipeline.states import CurvePoint, Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import stage_of
from evenload.pipeline.sweep.setting import is_yardstick


class TrialCurve(NamedTuple):
    """A trial and its held-out losses so far."""

    digest: str
    curve: tuple[CurvePoint, ...]  # by step
    steps: int  # of the whole training
    may_stop: bool  # whether it trains or waits for it

    @property
    def step(self) -> int:
        return self.curve[-1].step if self.curve else 0

    @property
    def final_loss(self) -> float | None:
        """The loss at the last step; None if the training has not reached it."""
        return self.curve[-1].val_loss if self.step >= self.steps else None


def comparable_groups(
    policy: Asha | Extrapolate,
    curves: Mapping[str, Sequence[CurvePoint]],
    rows: Sequence[TrialRecord],
) -> list[list[TrialCurve]]:
    """The trials of the tune stage, grouped by the keys in `policy.per` and the number of steps.

    Controls are left out, because their results are needed whatever their loss. Rules that leak
    future tokens are left out, because no other rule can reach their loss.
    """
    found: dict[str, list[TrialCurve]] = defaultdict(list)
    for row in rows:
        curve = tuple(curves.get(row.digest, ()))
        if stage_of(row) is Stage.TUNE and not is_yardstick(row.spec["balancer"]["kind"]):
            steps = int(row.spec["train"]["steps"])
            place = repr((steps, [value_at(row.spec, key) for key in policy.per]))
            may_stop = row.state in (TrialState.QUEUED, TrialState.TRAINING) and not row.ordered
            found[place].append(TrialCurve(row.digest, curve, steps, may_stop))
    return list(found.values())
