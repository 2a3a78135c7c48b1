"""What a model offers to the training step, whoever wrote it.

Tokens and a routing go in; a loss and the decisions of every expert layer come out. A model keeps
no routing state: biases are arguments and decisions are results, so recomputation, evaluation and
compilation cannot count twice.

Letters: B sequences, S positions, V vocabulary, L expert layers, T tokens, E experts, K top-k,
B bins of the margins.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from evenload.workers.selection import NO_BINS, Bins

Adjust = Callable[[Tensor, Tensor], Tensor]
Selects = Literal["tokens", "experts"]


class Routed(NamedTuple):
    """The decisions of one expert layer.

    If experts choose tokens, expert_TK lists the T*K assignments expert by expert, so its row t
    does not belong to token t.
    """

    score_TE: Tensor  # float32 gate scores, with gradient
    expert_TK: Tensor  # int64
    weight_TK: Tensor | None  # float32 gate weights, with gradient; None: not known
    count_E: Tensor  # int64; sums to T*K
    margin_E2B: Tensor | None = None  # int64; only with bins and a router kernel


class Output(Protocol):
    @property
    def routed(self) -> tuple[Routed, ...]:
        """One per expert layer, in the order of the rows of the bias."""

    @property
    def logits_BSV(self) -> Tensor: ...

    def loss(self, target_BS: Tensor) -> Tensor:
        """Mean cross entropy in nats per token, float32, with gradient."""


class RoutedModel(nn.Module, ABC):
    """A language model with expert layers."""

    @abstractmethod
    def forward(
        self,
        token_BS: Tensor,
        bias_LE: Tensor,
        adjust: Adjust = torch.add,
        selects: Selects = "tokens",
        bins: Bins = NO_BINS,
    ) -> Output:
        """Args:
        bias_LE: float32, one row per expert layer; no gradient passes through it
        adjust:  (score_TE, bias_E) -> the score that selects
        selects: "experts" lets each expert take its top T*K/E tokens, including later ones
        bins:    router kernels also count the margins in these bins
        """

    @abstractmethod
    def routers(self) -> Iterable[nn.Module]:
        """The modules whose weights score the experts."""

    @abstractmethod
    def with_top_k(self, top_k: int) -> Self | None:
        """The same weights, not copied, with routers that choose `top_k` experts; None if the
        model's code does not allow it."""

    def initial_bias(self) -> Tensor | None:
        """The bias that the weights come with, (L, E) float32; None: they start at zero."""
        return None

    def freeze_routers(self) -> None:
        """Fixes the router weights. Layers below still learn through the scores."""
        for router in self.routers():
            router.requires_grad_(False)


def next_token_loss(logits_BSV: Tensor, target_BS: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, in float32."""
    return functional.cross_entropy(logits_BSV.float().flatten(0, 1), target_BS.flatten())
