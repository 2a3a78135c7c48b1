from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evenload.workers.kernels.tiles import SHIPPED, read_table
from evenload.workers.tuning import tile_search


@pytest.mark.parametrize("kernel", tile_search.KERNELS)
def test_candidates_fit_a_block_and_are_few_enough_to_try(kernel: str) -> None:
    found = list(tile_search.candidates(kernel, torch.bfloat16))
    assert 10 <= len(found) <= 60
    halves = tile_search.ACCUMULATORS.get(kernel, 1)
    for tile in found:
        stage_bytes = 2 * (tile.block_m + halves * tile.block_n) * tile.block_k
        assert stage_bytes * tile.num_stages <= tile_search.SHARED_MEMORY_BYTES


def test_saving_keeps_the_tables_of_other_devices(tmp_path: Path) -> None:
    buckets = json.loads(SHIPPED.read_text())["default"]
    for device in ("one", "other"):
        tile_search.save({device: buckets}, tmp_path / "tiles.json")
    assert list(read_table(tmp_path / "tiles.json")) == ["one", "other"]
