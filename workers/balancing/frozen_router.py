"""A router that stays as initialised: shows what balancing does without a router that learns.

With a step size above 0 the bias follows the proportional rule. The scores then drift only because
the layers below the router change.
"""

from evenload.workers.balancing import proportional
from evenload.workers.balancing.base import Balancer


def make(*, step_size: float) -> Balancer:
    rule = proportional.make(step_size=step_size, normalise="target", schedule="constant")
    return rule._replace(trains_router=False)
