"""Computes loss and loads on held-out windows with frozen biases.

Letters: N windows, S tokens of a window, L expert layers, E experts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from evenload.workers.balancing.base import Balancer, add_bias
from evenload.workers.model.contract import Adjust, Routed, RoutedModel, next_token_loss
from evenload.workers.training.setup import Assembly
from evenload.workers.training.step import autocast


class Scores(NamedTuple):
    loss: float  # nats per token
    count_LE: Tensor  # int64, summed over all windows
    tokens: int


class Scorer(NamedTuple):
    """A model as in inference: routed by a frozen bias."""

    model: RoutedModel
    bias_LE: Tensor
    adjust: Adjust
    device: torch.device
    autocast_dtype: torch.dtype | None
    batch_sequences: int

    @torch.no_grad()
    def score(
        self, window_NS: NDArray[Any], watch: Callable[[Sequence[Routed]], None] | None = None
    ) -> Scores:
        """Mean loss of the last S - 1 tokens of each window, and their loads.

        Args:     watch: called for every batch with the decisions of the expert layers
        """
        total = torch.zeros((), dtype=torch.float64)
        count_LE = torch.zeros_like(self.bias_LE, dtype=torch.int64)
        self.model.eval()
        for token_BS in torch.from_numpy(window_NS).split(self.batch_sequences):
            token_BS = token_BS.to(self.device)
            with autocast(self.device, self.autocast_dtype):
                # `forward` avoids torch.compile: compiling takes longer than these few batches.
                output = self.model.forward(token_BS[:, :-1], self.bias_LE, self.adjust)
            target_BS = token_BS[:, 1:]
            loss = next_token_loss(output.logits_BSV, target_BS)
            total += loss.double().cpu() * target_BS.numel()
            count_LE += torch.stack([routed.count_E for routed in output.routed])
            if watch is not None:
                watch(output.routed)
        tokens = window_NS[:, 1:].size
        return Scores(float(total) / tokens, count_LE, tokens)


def scorer_of(assembly: Assembly, bias_LE: Tensor, batch_sequences: int) -> Scorer:
    return Scorer(
        model=assembly.trainee.model,
        bias_LE=bias_LE,
        adjust=inference_adjust(assembly.trainee.balancer),
        device=assembly.device,
        autocast_dtype=assembly.trainee.autocast_dtype,
        batch_sequences=batch_sequences,
    )


def inference_adjust(balancer: Balancer) -> Adjust:
    """The rule's own `adjust`, or plain biased top-k if the rule depends on later tokens, which do
    not exist yet in inference."""
    return balancer.adjust if balancer.causal else add_bias
