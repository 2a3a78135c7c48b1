"""Back ends of the expert layer, chosen by name. One that cannot run raises; none replaces it.

This module does not import torch, because `evenload sweep plan` resolves back ends with it.
"""

from collections.abc import Callable
from typing import NamedTuple

from evenload.pipeline.errors import SpecError
from evenload.workers.kernels import triton_support

ALIGNMENT_BYTES = 16  # grouped_mm needs matrices whose strides are multiples of this
NAMES = {2: "bfloat16", 4: "float32", 8: "float64"}


class Backend(NamedTuple):
    module: str  # of the expert layer; imported on first use: Triton is not always installed
    why_not: Callable[[str], str | None] = lambda device: None  # why it cannot run on a device
    check_widths: Callable[[int, int, int], None] = lambda d_model, d_expert, number_bytes: None
    router: str | None = None  # module that has `route`, a RouteTokens, and `product_of_halves`
    layer: str = "run_experts"  # function of the module


def check_torch_widths(d_model: int, d_expert: int, number_bytes: int) -> None:
    """Raises: SpecError: grouped_mm cannot compute a width in numbers of this size"""
    step = ALIGNMENT_BYTES // number_bytes
    for name, width in (("d_model", d_model), ("d_expert", d_expert)):
        if width % step:
            raise SpecError(
                f"model.{name}={width}: the torch back end needs a multiple of {step} in "
                f"{NAMES[number_bytes]}; use {width + -width % step} or runtime.backend: reference"
            )


_TRITON = Backend(
    "evenload.workers.kernels.triton_experts",
    triton_support.why_not,
    triton_support.check_widths,
    router="evenload.workers.kernels.triton_router",
)
BACKENDS: dict[str, Backend] = {
    "reference": Backend("evenload.workers.kernels.reference"),
    "torch": Backend("evenload.workers.kernels.torch_experts", check_widths=check_torch_widths),
    "triton": _TRITON,
    "triton_recompute": _TRITON._replace(layer="run_experts_recomputing"),
}


def resolve_backend(name: str, device: str) -> str:
    """The name of the back end to run on a device ("cpu", "cuda"); `auto` means torch.

    Raises:   SpecError: the back end does not exist or cannot run on the device
    """
    resolved = "torch" if name == "auto" else name
    reason = backend(resolved).why_not(device)
    if reason is not None:
        raise SpecError(
            f"runtime.backend={name!r} {reason}; use runtime.backend: torch or another device"
        )
    return resolved


def check_widths(name: str, d_model: int, d_expert: int, number_bytes: int) -> None:
    """Raises: SpecError: the resolved back end cannot compute these widths in such numbers"""
    backend(name).check_widths(d_model, d_expert, number_bytes)


def backend(name: str) -> Backend:
    """Raises: SpecError: the back end does not exist"""
    if name not in BACKENDS:
        raise SpecError(
            f"runtime.backend={name!r} is unknown; choose one of {', '.join(BACKENDS)} or auto"
        )
    return BACKENDS[name]
