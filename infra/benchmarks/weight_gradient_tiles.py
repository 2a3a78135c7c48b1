"""Predicts how long the tiles of the weight gradients keep a GPU busy, whole and split over rows.

python -m infra.benchmarks.weight_gradient_tiles

No kernel runs: every tile takes its rows plus the time of `EDGE_ROWS` for its start and end, one at
a time on each of 132 processors, in the order of the launch. Figures are times over that of the
same rows without any waiting.
Letters: E experts.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

import torch

from evenload.workers.kernels.triton_experts import TILES_PER_PROCESSOR
from infra.benchmarks.moe_layer import GPU_SHAPES, ROUTINGS, Shape

PROCESSORS = 132
EDGE_ROWS = 96
BLOCK_M, BLOCK_N = 128, 256
SHAPES = (*GPU_SHAPES, Shape("16 experts", 32_768, 512, 256, 16, 2))


def main() -> None:
    print("| layer | routing | matrix | whole | persistent | split |\n|---|---|---|---|---|---|")
    for shape in SHAPES:
        for routing, count_E in counts(shape).items():
            for matrix, blocks in blocks_of(shape).items():
                ideal = sum(count_E) * blocks / PROCESSORS
                cut = list(chunks(count_E, blocks))
                times = (dealt(count_E, blocks), strided(cut, blocks), dealt(cut, blocks))
                figures = " | ".join(f"{time / ideal:.2f}" for time in times)
                print(f"| {shape.name} | {routing} | {matrix} | {figures} |")


def counts(shape: Shape) -> dict[str, list[int]]:
    """Rows of each expert; the fullest expert last, where it delays most."""
    found = {
        name: sorted(torch.bincount(choose(shape).flatten(), minlength=shape.experts).tolist())
        for name, choose in ROUTINGS.items()
        if name != "one expert empty"
    }
    return found | {"all on one": [0] * (shape.experts - 1) + [shape.tokens]}


def blocks_of(shape: Shape) -> dict[str, int]:
    sizes = {"gate_up": (2 * shape.hidden, shape.width), "down": (shape.width, shape.hidden)}
    return {name: -(-m // BLOCK_M) * -(-n // BLOCK_N) for name, (m, n) in sizes.items()}


def chunks(count_E: list[int], blocks: int) -> Iterator[int]:
    """Rows of each chunk, as `Products.grad_matrix` cuts them."""
    splits = -(-TILES_PER_PROCESSOR * PROCESSORS // blocks)
    most = max(1, -(-sum(count_E) // splits))
    for count in count_E:
        yield from (min(most, count - start) for start in range(0, max(count, 1), most))


def dealt(rows: Iterable[int], blocks: int) -> float:
    """Each processor takes the next tile when it is free, as a GPU starts programs."""
    busy = [0.0] * PROCESSORS
    for count in rows:
        for _ in range(blocks):
            heapq.heappush(busy, heapq.heappop(busy) + count + EDGE_ROWS)
    return max(busy)


def strided(rows: list[int], blocks: int) -> float:
    """Each of as many programs as processors takes every 132nd tile."""
    tiles = [count + EDGE_ROWS for count in rows for _ in range(blocks)]
    return float(max(sum(tiles[first::PROCESSORS]) for first in range(PROCESSORS)))


if __name__ == "__main__":
    main()
