"""Tells where the Triton kernels can run, without importing Triton or, on a CPU, torch."""

import os
from importlib.util import find_spec

from evenload.pipeline.errors import SpecError

LOWEST_CAPABILITY = (8, 0)  # bf16 matrix units, asynchronous copies


def interpreting() -> bool:
    """True if Triton's slow interpreter for tests is on. Triton decides this at its import."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


def why_not(device: str) -> str | None:
    """The reason why the kernels cannot run on a device ("cpu", "cuda"), or None if they can."""
    if find_spec("triton") is None:
        return "needs Triton, which is not installed (pip install triton; Linux only)"
    if interpreting():
        return None
    if device != "cuda":
        return f"needs a GPU and does not run on {device!r}, except in Triton's interpreter"
    import torch

    if torch.cuda.is_available() and torch.cuda.get_device_capability() < LOWEST_CAPABILITY:
        return "needs a GPU of compute capability 8.0 or later"
    return None


def check_widths(d_model: int, d_expert: int, number_bytes: int) -> None:
    """Accepts every width. Raises: SpecError: bf16 in the interpreter, which computes it wrongly"""
    if number_bytes == 2 and interpreting():
        raise SpecError(
            "train.precision='bfloat16': Triton's interpreter multiplies the bits of bf16 numbers; "
            "use train.precision: float32 or unset TRITON_INTERPRET"
        )
