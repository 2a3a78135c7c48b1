"""No balancing: plain top-k on the raw scores. The control that shows what balancing gains."""

from __future__ import annotations

from workers.balancing.base import Balancer, BiasState, Observation


def keep(observation: Observation, state: BiasState) -> BiasState:
    """The update of a rule that moves no bias."""
    return state._replace(updates=state.updates + 1)


def make() -> Balancer:
    return Balancer(init=BiasState.zeros, update=keep)
