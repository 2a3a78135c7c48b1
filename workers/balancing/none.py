"""No balancing: plain top-k on the raw scores. The control to compare every rule with."""

from evenload.workers.balancing.base import Balancer, BiasState, keep_bias


def make() -> Balancer:
    return Balancer(init=BiasState.zeros, update=keep_bias)
