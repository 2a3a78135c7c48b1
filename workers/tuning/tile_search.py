"""Finds the fastest tiles of every kernel for a layer by timing them; made `tiles.json`.

Each kernel is timed alone, its candidates in turn. A candidate that does not fit the device is
skipped and counted.
Letters: T tokens, E experts, D width, F expert width, R rows.
"""

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evenload.workers.kernels.tiles import Tile, Tiles, read_table, table_names
from evenload.workers.tuning.timing import Call, in_turn

KERNELS = ("up", "down", "grad_up", "grad_rows", "grad_matrix")
BUCKETS = (64, 256, 1024, None)  # upper limits of the rows per expert
ROWS_OF_THE_LAST = 3072
TURNS = 10
ACCUMULATORS = {"up": 2}  # float32 accumulators per element of a tile; 1 for the other kernels
SHARED_MEMORY_BYTES = 232_448  # limit of a block on Hopper
MOST_REGISTERS = 128  # registers for accumulators, of the 255 of a thread

Report = Callable[[str], None]


class Layer(NamedTuple):
    """The layer to tune for. Widths and number of experts matter, the routing hardly does."""

    width: int
    hidden: int
    experts: int
    top_k: int


def tune(
    layer: Layer, device: torch.device, dtype: torch.dtype, report: Report, turns: int = TURNS
) -> dict[str, list[dict[str, Any]]]:
    """The table of one device, with the fastest tile of every kernel in every bucket."""
    buckets = [_tune_bucket(layer, most, device, dtype, report, turns) for most in BUCKETS]
    return {table_names(device, dtype)[0]: [tiles.model_dump() for tiles in buckets]}


def save(table: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Writes the table into the file and keeps the tables of other devices."""
    kept: dict[str, Any] = {}
    if path.exists():
        read_table(path)
        kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | table, indent=1) + "\n")


def candidates(kernel: str, dtype: torch.dtype) -> Iterator[Tile]:
    """Tiles whose accumulators and stages fit into a Hopper block."""
    halves = ACCUMULATORS.get(kernel, 1)
    for m, n, k, warps, stages, group in product(
        (64, 128), (64, 128, 256), (64, 128), (4, 8), (3, 4), (8,)
    ):
        registers = m * n * halves // (32 * warps)
        shared = (m + n * halves) * k * stages * dtype.itemsize
        if 32 <= registers <= MOST_REGISTERS and shared <= SHARED_MEMORY_BYTES:
            yield Tile(
                block_m=m, block_n=n, block_k=k, group=group, num_warps=warps, num_stages=stages
            )


def _tune_bucket(
    layer: Layer,
    most: int | None,
    device: torch.device,
    dtype: torch.dtype,
    report: Report,
    turns: int,
) -> Tiles:
    experts = import_module("evenload.workers.kernels.triton_experts")
    products, calls = _launches(experts, layer, most or ROWS_OF_THE_LAST, device, dtype)
    for kernel, call in calls.items():
        found, unfit = _fitting(experts, products, kernel, call, dtype)
        timings = in_turn(found, device, turns)
        best = min(timings, key=lambda tile: timings[tile].median)
        products.tiles = products.tiles.model_copy(update={kernel: best})
        report(
            f"up to {most or 'any number of'} rows per expert, {kernel}: "
            f"{1e6 * timings[best].median:.0f} us, {best}; {len(found)} tried, {unfit} do not fit"
        )
    return products.tiles.model_copy(update={"rows_per_expert": most})


def _fitting(
    experts: Any, products: Any, kernel: str, call: Call, dtype: torch.dtype
) -> tuple[dict[Tile, Call], int]:
    """The candidates that compile and run, each with its call, and the number of the others."""

    def with_tile(tile: Tile) -> Call:
        def run() -> None:
            products.tiles = products.tiles.model_copy(update={kernel: tile})
            call()

        return run

    found: dict[Tile, Call] = {}
    unfit = 0
    for tile in candidates(kernel, dtype):
        try:
            with_tile(tile)()
        except experts.TritonError:
            unfit += 1
        else:
            found[tile] = with_tile(tile)
    return found, unfit


def _launches(
    experts: Any, layer: Layer, rows_per_expert: int, device: torch.device, dtype: torch.dtype
) -> tuple[Any, dict[str, Call]]:
    """The products of a balanced layer, and one call per kernel on random data."""

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, device=device).to(dtype)

    num_rows = layer.experts * rows_per_expert
    num_tokens = max(1, num_rows // layer.top_k)
    x_TD = random(num_tokens, layer.width)
    gate_up_EGD = random(layer.experts, 2 * layer.hidden, layer.width)
    down_EDF = random(layer.experts, layer.width, layer.hidden)
    gate_up_RG, act_RF = random(num_rows, 2 * layer.hidden), random(num_rows, layer.hidden)
    products = experts.Products(
        x_TD,
        torch.full((layer.experts,), rows_per_expert, device=device),
        torch.randint(num_tokens, (num_rows,), device=device),
        torch.rand(num_rows, device=device),
    )

    def grad_matrices() -> None:
        products.grad_matrix(x_TD, act_RF, gather="left")
        products.grad_matrix(gate_up_RG, x_TD, gather="right")

    calls: dict[str, Call] = {
        "up": lambda: products.up(x_TD, gate_up_EGD, gate_up_RG, act_RF),
        "down": lambda: products.rows(act_RF, down_EDF, transposed=True),
        "grad_up": lambda: products.grad_up(x_TD, down_EDF, gate_up_RG),
        "grad_rows": lambda: products.rows(gate_up_RG, gate_up_EGD, transposed=False),
        "grad_matrix": grad_matrices,
    }
    assert tuple(calls) == KERNELS
    return products, calls
