"""Tells which widths the torch back end can compute, without importing torch."""

from evenload.pipeline.errors import SpecError

ALIGNMENT_BYTES = 16  # grouped_mm needs matrices whose strides are multiples of this
NAMES = {2: "bfloat16", 4: "float32", 8: "float64"}


def check_widths(d_model: int, d_expert: int, number_bytes: int) -> None:
    """Raises: SpecError: grouped_mm cannot compute a width in numbers of this size"""
    step = ALIGNMENT_BYTES // number_bytes
    for name, width in (("d_model", d_model), ("d_expert", d_expert)):
        if width % step:
            raise SpecError(
                f"model.{name}={width}: the torch back end needs a multiple of {step} in "
                f"{NAMES[number_bytes]}; use {width + -width % step} or runtime.backend: reference"
            )
