"""The contract of a balancing rule: a value of pure functions over a state of tensors.

Letters: T tokens, E experts, K top-k, L expert layers.

Every rule is deterministic, leaves its inputs unmodified, and does not wait for the device in
`update`. Layers are independent: stacked layers give bit for bit the result of single ones, so a
simulation can stack seeds where training stacks layers. Counts and step sizes may be zero. Biases
are float32 with zero mean over the experts of a layer (except in rules with `centred=False`). Gate
weights always come from the unadjusted score; no gradient passes through a bias.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from evenload.workers.selection import NO_BINS, Bins
from evenload.workers.selection import add_bias as add_bias


class Observation(NamedTuple):
    """The loads of one optimizer step, summed over its micro-batches and over all ranks."""

    count_LE: Tensor  # int64, assignments per expert
    target_LE: Tensor  # float32, wanted assignments per expert; sums to the sum of count_LE
    progress: float  # share of the training that is done, in (0, 1]
    statistic: Tensor | None = None  # sum (or concatenation) of the rule's own `measure`


class Statistic(Protocol):
    """The type of `Measure.of`."""

    def __call__(
        self, score_TE: Tensor, bias_E: Tensor, top_k: int, valid_T: Tensor | None = None
    ) -> Tensor: ...


class Measure(NamedTuple):
    """A statistic that a rule needs in addition to the counts.

    `of(score_TE, bias_E, top_k, valid_T)` returns one tensor per layer and micro-batch, under
    no_grad. It leaves out tokens whose `valid_T` is false (padding). Reduction "sum" adds the parts
    over micro-batches and ranks; "concat" joins them along the first dimension and works on one
    rank only. Leading dimensions are free: (..., T, E) with a bias of (..., 1, E) gives
    (..., result).
    With bins, `of` returns the margin counts in these bins; a router kernel may supply the same
    counts instead.
    """

    of: Statistic
    reduction: Literal["sum", "concat"]
    bins: Bins = NO_BINS


class RoutedBatch(NamedTuple):
    """The input of a loss: one micro-batch of one layer, its tokens sequence after sequence."""

    score_TE: Tensor  # gate scores, with gradient
    expert_TK: Tensor  # chosen experts
    count_E: Tensor  # assignments of this micro-batch
    step_count_E: Tensor  # assignments of the step so far, this micro-batch included, all ranks
    num_sequences: int


class Balancer(NamedTuple):
    """A balancing rule.

    init(num_layers, num_experts, device) -> state
    update(observation, state)            -> state, with the bias of the next step
    adjust(score_TE, bias_E)              -> the score that selects experts in training
    loss(batch)                           -> scalar added to the objective, summed over layers

    A state is a NamedTuple of tensors, stacked over layers first, with a field `bias_LE`.
    """

    init: Callable[[int, int, torch.device], Any]
    update: Callable[[Observation, Any], Any]
    adjust: Callable[[Tensor, Tensor], Tensor] = add_bias
    loss: Callable[[RoutedBatch], Tensor] | None = None
    measure: Measure | None = None
    causal: bool = True  # a token's adjusted score depends on that token alone
    selects: Literal["tokens", "experts"] = "tokens"  # "experts": each expert takes its top tokens
    trains_router: bool = True


class BiasState(NamedTuple):
    """State of a rule that remembers only the bias and the number of updates."""

    bias_LE: Tensor  # float32
    updates: Tensor  # int64 scalar, for schedules in the number of updates

    @staticmethod
    def zeros(num_layers: int, num_experts: int, device: torch.device) -> "BiasState":
        return BiasState(
            torch.zeros(num_layers, num_experts, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )


def centre(value_LE: Tensor) -> Tensor:
    """The value minus its mean over experts. An equal shift of all experts selects the same."""
    return value_LE - value_LE.mean(dim=-1, keepdim=True)


def load_error(observation: Observation) -> Tensor:
    """L - A in assignments, float32: positive for starved experts. Shape (L, E)."""
    return observation.target_LE - observation.count_LE.to(torch.float32)


def relative_error(observation: Observation) -> Tensor:
    """(L - A) / L, float32; 0 where L is 0, as in a step without tokens."""
    target_LE = observation.target_LE
    return torch.where(target_LE > 0, load_error(observation) / target_LE, 0.0)


def keep_bias(observation: Observation, state: BiasState) -> BiasState:
    """The update of a rule that never moves the bias."""
    return state._replace(updates=state.updates + 1)


def scheduled(step_size: float, schedule: str, updates: Tensor) -> Tensor:
    """Step size of the coming update: u, u/sqrt(n) or u/n, with n = updates + 1."""
    n = (updates + 1).to(torch.float32)
    match schedule:
        case "constant":
            return torch.full_like(n, step_size)
        case "inverse_sqrt":
            return step_size / n.sqrt()
        case "inverse":
            return step_size / n
        case _:
            raise ValueError(f"schedule={schedule!r}: use constant, inverse_sqrt or inverse")
