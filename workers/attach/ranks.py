"""The ranks that train together, and what passes between them: one sum per optimizer step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from evenload.workers.attach.errors import AttachError


class Ranks(NamedTuple):
    """A process group, whose members all call the same methods in the same order."""

    group: dist.ProcessGroup | None
    size: int

    @staticmethod
    def of(group: dist.ProcessGroup | None) -> "Ranks":
        """The given group, else the default one where there is one."""
        if not (dist.is_available() and dist.is_initialized()):
            return Ranks(None, 1)
        return Ranks(group, dist.get_world_size(group))

    @property
    def is_first(self) -> bool:
        return self.size == 1 or dist.get_rank(self.group) == 0

    def agree(self, told: object) -> None:
        """Raises: AttachError: on all ranks, where one says something else"""
        if self.size == 1:
            return
        every: list[object] = [None] * self.size
        dist.all_gather_object(every, told, group=self.group)
        for rank, other in enumerate(every):
            if other != every[0]:
                raise AttachError(
                    f"rank {rank} has {other}, rank 0 has {every[0]}: all ranks of a group must "
                    "attach the same routers; pass group= with the ranks that hold this stage"
                )

    def check_all_step(self) -> None:
        """Raises: AttachError: under Join of DDP, where a rank may end before the others"""
        active = getattr(DistributedDataParallel, "_active_ddp_module", None)
        if self.size > 1 and active is not None and active._join_config.enable:
            raise AttachError(
                "the model runs in Join of DistributedDataParallel, and a rank that has ended "
                "takes no part in the sum of counts: give every rank as many steps, if need be "
                "with a batch whose attention_mask is 0"
            )

    def sum(
        self, flags: tuple[bool, bool], parts: Sequence[Tensor]
    ) -> tuple[bool, bool, list[Tensor]]:
        """Two flags (true if true anywhere) and integer tensors, summed in one collective."""
        if self.size == 1:
            return (*flags, list(parts))
        device = parts[0].device
        flat = torch.cat(
            [
                torch.tensor(flags, dtype=torch.int64, device=device),
                *(part.flatten().to(device) for part in parts),
            ]
        )
        dist.all_reduce(flat, group=self.group)
        flag, *summed = flat.split([2, *(part.numel() for part in parts)])
        first, second = flag.tolist()
        whole = [
            total.view_as(part).to(part.device) for total, part in zip(summed, parts, strict=True)
        ]
        return first > 0, second > 0, whole
