"""Wrappers around a rule that centre or clip its bias, or change the pace of its steps.

Each function takes a balancer and returns one; only `once_in` adds to its state. They compose in
any order; the outermost wrapper acts last.
"""

from collections import namedtuple
from collections.abc import Callable
from functools import cache
from math import cos, pi
from typing import Any

import torch
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


def decayed(rule: Balancer, start: float, shape: str) -> Balancer:
    """Scales each change of the bias by a factor that falls from 1 at `start` to 0 at the end.

    Args:     start: share of the training; 1 never decays
              shape: "linear" or "cosine"
    """
    if start >= 1:
        return rule

    def falling(progress: float, before_LE: Tensor, after_LE: Tensor) -> Tensor:
        done = min(1.0, max(0.0, (progress - start) / (1 - start)))
        left = 1 - done if shape == "linear" else (1 + cos(pi * done)) / 2
        return before_LE + left * (after_LE - before_LE)

    return _wrapped(rule, falling)


def once_in(rule: Balancer, steps: int) -> Balancer:
    """Updates the rule once in so many optimizer steps, with the loads of all of them together.

    The rule may not measure scores.
    """
    if steps == 1:
        return rule

    def init(num_layers: int, num_experts: int, device: torch.device) -> Any:
        state = rule.init(num_layers, num_experts, device)
        kind: Any = type(state)
        count_LE = torch.zeros_like(state.bias_LE, dtype=torch.int64)
        seen = torch.zeros((), dtype=torch.int64, device=device)
        return _waiting(kind)(*state, count_LE, torch.zeros_like(state.bias_LE), seen)

    def update(observation: Observation, state: Any) -> Any:
        *before, count_LE, target_LE, seen = state
        count_LE = count_LE + observation.count_LE
        target_LE = target_LE + observation.target_LE
        is_due = (seen + 1) % steps == 0
        together = observation._replace(count_LE=count_LE, target_LE=target_LE)
        after = rule.update(together, type(state).inner(*before))
        moved = (torch.where(is_due, new, old) for new, old in zip(after, before, strict=True))
        kept = (part_LE.masked_fill(is_due, 0) for part_LE in (count_LE, target_LE))
        return type(state)(*moved, *kept, seen + 1)

    return rule._replace(init=init, update=update)


def paced(
    rule: Balancer,
    *,
    warm_until: float,
    decay_from: float,
    decay_shape: str,
    freeze_from: float,
    every: int,
) -> Balancer:
    """The rule at the pace that a spec asks for: `pipeline.spec.balancers.PACE`."""
    rule = decayed(warmed_up(rule, warm_until), decay_from, decay_shape)
    return once_in(frozen_from(rule, freeze_from), every)


WAITING = ("waiting_count_LE", "waiting_target_LE", "steps_seen")


@cache
def _waiting(state: Any) -> Any:
    """The type of a state with the loads that wait for the next update."""
    make: Any = namedtuple  # type checkers take only a name that is written out
    kind = make(f"Waiting{state.__name__}", (*state._fields, *WAITING))
    kind.inner = state
    return kind


def _wrapped(rule: Balancer, bias_of: Callable[[float, Tensor, Tensor], Tensor]) -> Balancer:
    """The rule with the bias that `bias_of` makes of progress, bias before and bias after."""

    def update(observation: Observation, state: Any) -> Any:
        after = rule.update(observation, state)
        bias_LE = bias_of(observation.progress, state.bias_LE, after.bias_LE)
        return after._replace(bias_LE=bias_LE)

    return rule._replace(update=update)
