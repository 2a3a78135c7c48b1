"""Back ends of the expert layer, chosen by name. What cannot run says so; nothing steps in for it.

A back end is a function `run_experts(x_TD, gate_up_EGD, down_EDF, rows) -> y_TD` that agrees with
the one in `reference`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import SpecError
from workers.kernels import reference, torch_experts
from workers.kernels.rows import Rows

RunExperts = Callable[[Tensor, Tensor, Tensor, Rows], Tensor]


class Backend(NamedTuple):
    run_experts: RunExperts | None  # None: known by name, not in this version
    devices: tuple[str, ...]
    check_widths: Callable[[int, int, torch.dtype], None] | None = None  # None: takes every width


BACKENDS: dict[str, Backend] = {
    "reference": Backend(reference.run_experts, ("cpu", "cuda")),
    "torch": Backend(torch_experts.run_experts, ("cpu", "cuda"), torch_experts.check_widths),
    "triton": Backend(None, ("cuda",)),
}


def resolve_backend(name: str, device: str) -> str:
    """The back end that runs on a device ("cpu", "cuda"); `auto` is torch everywhere.

    Raises:   SpecError: no such back end, or one that cannot run there
    """
    resolved = "torch" if name == "auto" else name
    experts_of(resolved)
    devices = BACKENDS[resolved].devices
    if device not in devices:
        raise SpecError(
            f"runtime.backend={name!r} does not run on {device!r}; "
            f"use runtime.device: {devices[0]} or runtime.backend: auto"
        )
    return resolved


def check_widths(backend: str, d_model: int, d_expert: int, dtype: torch.dtype) -> None:
    """Raises: SpecError: a resolved back end cannot take these widths in this dtype"""
    check = BACKENDS[backend].check_widths
    if check is not None:
        check(d_model, d_expert, dtype)


def experts_of(backend: str) -> RunExperts:
    """The expert layer of a resolved back end.

    Raises:   SpecError: no such back end, or one that is not in this version
    """
    if backend not in BACKENDS:
        raise SpecError(
            f"runtime.backend={backend!r} is unknown; choose one of {', '.join(BACKENDS)} or auto"
        )
    run_experts = BACKENDS[backend].run_experts
    if run_experts is None:
        raise SpecError(
            f"runtime.backend={backend!r} has no kernels in this version; "
            "use runtime.backend: torch or auto"
        )
    return run_experts
