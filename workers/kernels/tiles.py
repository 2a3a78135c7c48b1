"""Tile sizes of the matrix kernels, from a table by device and by number of rows per expert.

Tiles change only the speed and the order of sums. The shipped table is `tiles.json`. The setting
`EVENLOAD_TILES_FILE` names a table that `evenload tune --save` wrote; its devices take precedence.
"""

import json
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from pydantic import PositiveInt, TypeAdapter, ValidationError
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.spec_file import Frozen

SHIPPED = Path(__file__).with_name("tiles.json")
ALWAYS = {"enable_fp_fusion": True}  # option of every launch; Triton 3.9 warns without it
HOPPER_SHARED_BYTES = 232_448  # most shared memory of a block on sm_90

Launch = TypeVar("Launch", bound=Callable[..., Any])


def on_device_of_first(function: Launch) -> Launch:
    """Lets a function launch kernels on the device of its first tensor, whichever is current."""

    @wraps(function)
    def guarded(first: Tensor, *others: Any) -> Any:
        with torch.cuda.device_of(first):
            return function(first, *others)

    return cast(Launch, guarded)


class Tile(Frozen):
    """How a kernel splits its product: (block_m, block_k) @ (block_k, block_n) at a time."""

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


class Tiles(Frozen):
    """The tiles of every kernel, for a mean of up to `rows_per_expert` rows."""

    rows_per_expert: PositiveInt | None  # None: no limit
    up: Tile
    down: Tile
    grad_up: Tile
    grad_rows: Tile
    grad_matrix: Tile


Table = dict[str, list[Tiles]]


def tiles_for(names: tuple[str, ...], num_rows: int, num_experts: int) -> Tiles:
    """The tiles of the first name in the tables, from the first bucket with enough room."""
    return next(
        tiles
        for tiles in buckets_of(names)
        if tiles.rows_per_expert is None or num_rows / num_experts <= tiles.rows_per_expert
    )


@cache
def buckets_of(names: tuple[str, ...]) -> list[Tiles]:
    """The buckets of the first name in the tables. Cached, because every launch asks for them."""
    table, path = read_table(SHIPPED), Settings().tiles_file
    if path is not None:
        table |= read_table(path)
    return next(table[name] for name in names if name in table)


@cache
def table_names(
    device: torch.device, dtype: torch.dtype, precision: str = "ieee"
) -> tuple[str, ...]:
    """The names under which a table may list a device, the most specific first.

    Exact float32 products cannot use tensor cores, and others of float32 are split into several, so
    both have tiles of their own. A device without a table takes that of Hopper if its blocks have
    as much shared memory, as those of sm_100 do and those of sm_120 do not.
    """
    if device.type != "cuda":
        return ("interpreter",)
    name = torch.cuda.get_device_name(device)
    if dtype is torch.float32:
        kind = "float32" if precision == "ieee" else precision
        return (f"{name} {kind}", kind)
    major, minor = torch.cuda.get_device_capability(device)
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 0)  # AMD's have none
    like_hopper = ("sm_90",) if shared >= HOPPER_SHARED_BYTES else ()
    return (name, f"sm_{major}{minor}", *like_hopper, "default")


def read_table(path: Path) -> Table:
    """Raises: SpecError: the file is missing, not JSON, or not a table of tiles"""
    try:
        document: Any = json.loads(path.read_text())
        table = TypeAdapter(Table).validate_python(document)
    except (OSError, ValueError, ValidationError) as error:
        raise SpecError(
            f"EVENLOAD_TILES_FILE={str(path)!r} is not a table of tiles ({error}); "
            "write one with evenload tune --save"
        ) from error
    for device, buckets in table.items():
        if not buckets or buckets[-1].rows_per_expert is not None:
            raise SpecError(
                f"{path}: the last bucket of {device!r} must have rows_per_expert: null"
            )
    return table
