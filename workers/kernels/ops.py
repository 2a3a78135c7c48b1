"""Back ends of the expert layer, chosen by name. One that cannot run raises; none replaces it.

A back end is a module with `run_experts(x_TD, gate_up_EGD, down_EDF, rows) -> y_TD` that agrees
with the one in `reference`. It may also have a router kernel for rules that select by score + bias.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.workers.kernels import torch_experts, triton_support
from evenload.workers.kernels.routing import Gate, Route
from evenload.workers.kernels.rows import Rows
from evenload.workers.selection import NO_BINS, Bins

RunExperts = Callable[[Tensor, Tensor, Tensor, Rows], Tensor]


class RouteTokens(Protocol):
    def __call__(
        self, logit_TE: Tensor, bias_E: Tensor, gate: Gate, bins: Bins = NO_BINS
    ) -> Route: ...


class Backend(NamedTuple):
    module: str  # imported on first use, because Triton is not always installed
    why_not: Callable[[str], str | None] = lambda device: None  # why it cannot run on a device
    check_widths: Callable[[int, int, torch.dtype], None] = lambda d_model, d_expert, dtype: None
    router: str | None = None  # module with `route`, a RouteTokens


_TRITON = Backend(
    "evenload.workers.kernels.triton_experts",
    triton_support.why_not,
    triton_support.check_widths,
    router="evenload.workers.kernels.triton_router",
)
BACKENDS: dict[str, Backend] = {
    "reference": Backend("evenload.workers.kernels.reference"),
    "torch": Backend(
        "evenload.workers.kernels.torch_experts", check_widths=torch_experts.check_widths
    ),
    "triton": _TRITON,
    "triton_recompute": _TRITON._replace(module="evenload.workers.kernels.triton_recompute"),
}


def resolve_backend(name: str, device: str) -> str:
    """The name of the back end to run on a device ("cpu", "cuda"); `auto` means torch.

    Raises:   SpecError: the back end does not exist or cannot run on the device
    """
    resolved = "torch" if name == "auto" else name
    reason = _backend(resolved).why_not(device)
    if reason is not None:
        raise SpecError(
            f"runtime.backend={name!r} {reason}; use runtime.backend: torch or another device"
        )
    return resolved


def check_widths(backend: str, d_model: int, d_expert: int, dtype: torch.dtype) -> None:
    """Raises: SpecError: the resolved back end cannot compute these widths in this dtype"""
    _backend(backend).check_widths(d_model, d_expert, dtype)


def experts_of(backend: str) -> RunExperts:
    """The expert layer of a resolved back end.

    Raises:   SpecError: the back end does not exist
    """
    run_experts: RunExperts = import_module(_backend(backend).module).run_experts
    return run_experts


def router_of(backend: str) -> RouteTokens | None:
    """The router kernel of a resolved back end, or None if the back end routes with torch."""
    module = _backend(backend).router
    if module is None:
        return None
    route: RouteTokens = import_module(module).route
    return route


def _backend(name: str) -> Backend:
    if name not in BACKENDS:
        raise SpecError(
            f"runtime.backend={name!r} is unknown; choose one of {', '.join(BACKENDS)} or auto"
        )
    return BACKENDS[name]
