"""Wrappers around a rule that centre, clip, warm up or freeze its bias.

Each function takes a balancer and returns one with the same state. They compose in any order; the
outermost wrapper acts last.
"""

from typing import Any

from evenload.workers.balancing.base import Balancer, Observation, centre


def centred(rule: Balancer) -> Balancer:
    """Keeps the mean of the bias over experts at zero. The mean does not change the selection."""

    def update(observation: Observation, state: Any) -> Any:
        after = rule.update(observation, state)
        return after._replace(bias_LE=centre(after.bias_LE))

    return rule._replace(update=update)


def clipped(rule: Balancer, cap: float) -> Balancer:
    """Keeps every bias within `cap` of zero, in units of the score.

    Centre the clipped rule, not the other way round: clipping would move the mean again.
    """

    def update(observation: Observation, state: Any) -> Any:
        after = rule.update(observation, state)
        return after._replace(bias_LE=after.bias_LE.clamp(-cap, cap))

    return rule._replace(update=update)


def warmed_up(rule: Balancer, until: float) -> Balancer:
    """Scales each change of the bias by a ramp from 0 to 1 over the share `until` of training."""
    if until <= 0:
        return rule

    def update(observation: Observation, state: Any) -> Any:
        after = rule.update(observation, state)
        ramp = min(1.0, observation.progress / until)
        return after._replace(bias_LE=state.bias_LE + ramp * (after.bias_LE - state.bias_LE))

    return rule._replace(update=update)


def frozen_from(rule: Balancer, share: float) -> Balancer:
    """Keeps the bias fixed once more than `share` of the training is done; 1 never freezes.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, section 4.2 (step size 0 for the last tokens).
    """

    def update(observation: Observation, state: Any) -> Any:
        after = rule.update(observation, state)
        return after if observation.progress <= share else after._replace(bias_LE=state.bias_LE)

    return rule._replace(update=update)


def warmed_up_then_frozen(rule: Balancer, warm_until: float, freeze_from: float) -> Balancer:
    return frozen_from(warmed_up(rule, warm_until), freeze_from)
