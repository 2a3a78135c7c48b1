"""The processes that train one trial together, and what passes between them.

Every rank holds the whole model and trains on its share of the batch. Gradients, counts and
figures are summed over ranks before anything is computed from them, so weights, biases and
optimizer states stay the same on all ranks, bit for bit, without being sent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evenload.pipeline.errors import PeerLost

Choice = TypeVar("Choice", bound=StrEnum)

BUCKET_BYTES = 2**28  # gradients that are copied together and summed in one call


class Ranks(NamedTuple):
    """This process among those of the default process group of torch.

    Every method is to be called by all ranks, in the same order. Alone it costs nothing.

    Raises:   PeerLost: another rank died or left
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """The one that records, writes checkpoints and answers to the store."""
        return self.rank == 0

    def meet(self) -> None:
        """Returns once all ranks have called it."""
        if self.size > 1:
            _together(dist.all_reduce, torch.zeros(1))

    def sum(self, value: Tensor) -> Tensor:
        """Over ranks; a new tensor, the same on each."""
        if self.size == 1:
            return value
        total = value.clone()
        _together(dist.all_reduce, total)
        return total

    def mean(self, value: Tensor) -> Tensor:
        return value if self.size == 1 else self.sum(value) / self.size

    def join(self, value: Tensor, dim: int) -> Tensor:
        """The values of all ranks one after the other, first rank first; of equal shapes."""
        if self.size == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.size)]
        _together(dist.all_gather, parts, value.contiguous())
        return torch.cat(parts, dim=dim)

    def average_gradients(self, model: nn.Module) -> None:
        """After the last backward pass of a step. Ranks with equal shares: the batch's gradient.

        Sums are not hidden behind the backward pass; they take the time of 2 (n-1)/n times the
        gradients' bytes over the link of a rank.
        """
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            _together(dist.all_reduce, flat)
            flat /= self.size
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def agree(self, choice: Choice) -> Choice:
        """What the first rank chose."""
        if self.size == 1:
            return choice
        choices = list(type(choice))
        place = torch.tensor(choices.index(choice))
        _together(dist.broadcast, place, 0)
        return choices[int(place)]

    def agree_on_step(self, step: int) -> None:
        """Raises: RuntimeError: ranks would go on from different steps"""
        if self.size == 1:
            return
        own = torch.tensor([step])
        step_R = self.join(own, dim=0).tolist()
        if len(set(step_R)) > 1:
            raise RuntimeError(
                f"ranks found checkpoints of steps {step_R}; all hosts must see the same folder"
            )


ALONE = Ranks()


def _buckets(gradients: Sequence[Tensor]) -> list[list[Tensor]]:
    """In order, of one dtype and at most `BUCKET_BYTES` each, or a single larger one."""
    buckets: list[list[Tensor]] = []
    room = 0
    for gradient in gradients:
        room -= gradient.nbytes
        if room < 0 or buckets[-1][0].dtype != gradient.dtype:
            buckets.append([])
            room = BUCKET_BYTES - gradient.nbytes
        buckets[-1].append(gradient)
    return buckets


def _together(collective: Callable[..., Any], *args: Any) -> None:
    try:
        collective(*args)
    except RuntimeError as error:  # all that torch.distributed raises derives from it
        raise PeerLost(f"another rank left: {error}") from error
