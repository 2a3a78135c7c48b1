"""A router that stays as initialised: separates balancing from a router that moves.

With a step size its bias follows the proportional rule, on scores that drift only because the
layers below do.
"""

from __future__ import annotations

from evenload.workers.balancing import proportional
from evenload.workers.balancing.base import Balancer


def make(*, step_size: float) -> Balancer:
    rule = proportional.make(
        step_size=step_size,
        normalise="target",
        schedule="constant",
        warm_until=0.0,
        freeze_from=1.0,
    )
    return rule._replace(trains_router=False)
