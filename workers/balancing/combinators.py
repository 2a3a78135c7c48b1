"""Wrappers around a rule that centre, clip, warm up or freeze its bias.

Each function takes a balancer and returns one with the same state. They compose in any order; the
outermost wrapper acts last.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from evenload.workers.balancing.base import Balancer, Observation, centre


def centred(rule: Balancer) -> Balancer:
    """Keeps the mean of the bias over experts at zero. The mean does not change the selection."""
    return _wrapped(rule, lambda progress, before_LE, after_LE: centre(after_LE))


def clipped(rule: Balancer, cap: float) -> Balancer:
    """Keeps every bias within `cap` of zero, in units of the score.

    Centre the clipped rule, not the other way round: clipping would move the mean again.
    """
    return _wrapped(rule, lambda progress, before_LE, after_LE: after_LE.clamp(-cap, cap))


def warmed_up(rule: Balancer, until: float) -> Balancer:
    """Scales each change of the bias by a ramp from 0 to 1 over the share `until` of training."""
    if until <= 0:
        return rule

    def ramped(progress: float, before_LE: Tensor, after_LE: Tensor) -> Tensor:
        return before_LE + min(1.0, progress / until) * (after_LE - before_LE)

    return _wrapped(rule, ramped)


def frozen_from(rule: Balancer, share: float) -> Balancer:
    """Keeps the bias fixed once more than `share` of the training is done; 1 never freezes.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, section 4.2 (step size 0 for the last tokens).
    """
    return _wrapped(
        rule, lambda progress, before_LE, after_LE: after_LE if progress <= share else before_LE
    )


def warmed_up_then_frozen(rule: Balancer, warm_until: float, freeze_from: float) -> Balancer:
    return frozen_from(warmed_up(rule, warm_until), freeze_from)


def _wrapped(rule: Balancer, bias_of: Callable[[float, Tensor, Tensor], Tensor]) -> Balancer:
    """The rule with the bias that `bias_of` makes of progress, bias before and bias after."""

    def update(observation: Observation, state: Any) -> Any:
        after = rule.update(observation, state)
        bias_LE = bias_of(observation.progress, state.bias_LE, after.bias_LE)
        return after._replace(bias_LE=bias_LE)

    return rule._replace(update=update)
