"""The auxiliary loss alone: it pushes the router itself towards the wanted load. No bias moves."""

from evenload.workers.balancing.balance_loss import balance_loss
from evenload.workers.balancing.base import Balancer, BiasState, keep_bias


def make(
    *, coefficient: float, scope: str, groups: int | None, target: tuple[float, ...] | None
) -> Balancer:
    loss = balance_loss(coefficient, scope, groups, target)
    return Balancer(init=BiasState.zeros, update=keep_bias, loss=loss)
