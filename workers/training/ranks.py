"""The processes that train one trial together, and their communication.

Every rank has the whole model and trains on its share of the batch. Gradients, counts and figures
are summed over ranks before anything is computed from them. So weights, biases and optimizer states
stay bit-equal on all ranks without being sent.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evenload.pipeline.errors import PeerLost

Choice = TypeVar("Choice", bound=StrEnum)

BUCKET_BYTES = 2**28  # size of the buckets of gradients that one call sums


class Ranks(NamedTuple):
    """This process among those of torch's default process group.

    All ranks must call every method in the same order. With one rank the methods cost nothing.

    Raises:   PeerLost: another rank died or left
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True for the rank that records, writes checkpoints and talks to the store."""
        return self.rank == 0

    def barrier(self) -> None:
        """Returns after all ranks have called it."""
        if self.size > 1:
            _run(dist.all_reduce, torch.zeros(1))

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks, as a new tensor."""
        if self.size == 1:
            return value
        total = value.clone()
        _run(dist.all_reduce, total)
        return total

    def mean(self, value: Tensor) -> Tensor:
        return value if self.size == 1 else self.sum(value) / self.size

    def concatenate(self, value: Tensor, dim: int) -> Tensor:
        """The values of all ranks in the order of the ranks; all must have the same shape."""
        if self.size == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)]
        _run(dist.all_gather, parts, value.contiguous())
        return torch.cat(parts, dim=dim)

    def average_gradients(self, model: nn.Module) -> None:
        """Replaces each gradient by its mean over ranks; call it after the last backward pass.

        The sums do not overlap with the backward pass. They take the time to send 2 (n-1)/n times
        the bytes of the gradients over the link of a rank.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            _run(dist.all_reduce, flat)
            flat /= self.size
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def broadcast(self, choice: Choice) -> Choice:
        """The choice of the first rank."""
        if self.size == 1:
            return choice
        choices = list(type(choice))
        place = torch.tensor(choices.index(choice))
        _run(dist.broadcast, place, 0)
        return choices[int(place)]

    def check_step(self, step: int) -> None:
        """Raises: RuntimeError: ranks would resume from different steps"""
        if self.size == 1:
            return
        step_R = self.concatenate(torch.tensor([step]), dim=0).tolist()
        if len(set(step_R)) > 1:
            raise RuntimeError(
                f"ranks found checkpoints of steps {step_R}; all hosts must see the same folder"
            )


ALONE = Ranks()


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """Gradients in order, in buckets of one dtype with at most `BUCKET_BYTES` or one gradient."""
    buckets: list[list[Tensor]] = []
    room = 0
    for gradient in gradients:
        room -= gradient.nbytes
        if room < 0 or buckets[-1][0].dtype != gradient.dtype:
            buckets.append([])
            room = BUCKET_BYTES - gradient.nbytes
        buckets[-1].append(gradient)
    return buckets


def _run(collective: Callable[..., Any], *args: Any) -> None:
    try:
        collective(*args)
    except RuntimeError as error:  # the base class of all errors of torch.distributed
        raise PeerLost(f"another rank left: {error}") from error
