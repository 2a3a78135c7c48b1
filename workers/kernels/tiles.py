"""Tile sizes of the matrix kernels, from a table per device and number of rows per expert.

Tiles change speed and the order of sums, nothing else. The shipped table is `tiles.json`;
`EVENLOAD_TILES_FILE` names one that `evenload tune --save` wrote, whose devices come first.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter, ValidationError

from pipeline.errors import SpecError
from pipeline.settings import Settings

SHIPPED = Path(__file__).with_name("tiles.json")
ALWAYS = {"enable_fp_fusion": True}  # of every launch; Triton 3.9 warns where it is not said


class Tile(BaseModel):
    """How one kernel cuts its product, (block_m, block_k) @ (block_k, block_n) at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_m: PositiveInt
    block_n: PositiveInt
    block_k: PositiveInt
    group: PositiveInt  # rows of tiles that share matrices in L2
    num_warps: PositiveInt
    num_stages: PositiveInt

    def launch(self) -> dict[str, int]:
        """The keyword arguments of a kernel launch."""
        sizes = {name if name.startswith("num") else name.upper(): size for name, size in self}
        return sizes | ALWAYS


class Tiles(BaseModel):
    """The tiles of every kernel, for up to so many rows per expert on average."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows_per_expert: PositiveInt | None  # None: any number
    up: Tile
    down: Tile
    grad_up: Tile
    grad_rows: Tile
    grad_matrix: Tile


Table = dict[str, list[Tiles]]


def tiles_for(device: str, num_rows: int, num_experts: int) -> Tiles:
    """The tiles of a device (its name, or "interpreter"), else those named "default"."""
    buckets = _table(Settings().tiles_file)
    return pick(buckets.get(device, buckets["default"]), num_rows / num_experts)


def pick(buckets: list[Tiles], rows_per_expert: float) -> Tiles:
    """The first bucket with room; the last one has room for any number."""
    return next(
        tiles
        for tiles in buckets
        if tiles.rows_per_expert is None or rows_per_expert <= tiles.rows_per_expert
    )


@cache
def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


@cache
def _table(path: Path | None) -> Table:
    shipped = read_table(SHIPPED)
    return shipped if path is None else shipped | read_table(path)


def read_table(path: Path) -> Table:
    """Raises: SpecError: no file, no JSON, or no table of tiles"""
    try:
        document: Any = json.loads(path.read_text())
        table = TypeAdapter(Table).validate_python(document)
    except (OSError, ValueError, ValidationError) as error:
        raise SpecError(
            f"EVENLOAD_TILES_FILE={str(path)!r} is no table of tiles ({error}); "
            "write one with evenload tune --save"
        ) from error
    for device, buckets in table.items():
        if not buckets or buckets[-1].rows_per_expert is not None:
            raise SpecError(
                f"{path}: the last bucket of {device!r} must have rows_per_expert: null"
            )
    return table
