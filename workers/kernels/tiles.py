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

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings

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


def tiles_for(names: tuple[str, ...], num_rows: int, num_experts: int) -> Tiles:
    """The tiles of the first of the names that a table has."""
    return pick(buckets_of(names), num_rows / num_experts)


@cache
def buckets_of(names: tuple[str, ...]) -> list[Tiles]:
    """Read once a process: what is asked for at every launch must cost nothing."""
    table, path = read_table(SHIPPED), Settings().tiles_file
    if path is not None:
        table |= read_table(path)
    return next(table[name] for name in names if name in table)


def pick(buckets: list[Tiles], rows_per_expert: float) -> Tiles:
    """The first bucket with room; the last one has room for any number."""
    return next(
        tiles
        for tiles in buckets
        if tiles.rows_per_expert is None or rows_per_expert <= tiles.rows_per_expert
    )


@cache
def table_names(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """What a table may call a device, the most special first.

    Exact float32 products know no tensor cores, so they are cut in another way.
    """
    if device.type != "cuda":
        return ("interpreter",)
    name = torch.cuda.get_device_name(device)
    if dtype is torch.float32:
        return (f"{name} float32", "float32")
    major, minor = torch.cuda.get_device_capability(device)
    return (name, f"sm_{major}{minor}", "default")


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
