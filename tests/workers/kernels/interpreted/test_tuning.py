from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evenload.workers.kernels.tiles import Tile, read_table
from evenload.workers.tuning import tile_search

TILE = Tile(block_m=16, block_n=32, block_k=32, group=2, num_warps=4, num_stages=1)


def test_a_table_is_tuned_saved_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = TILE.model_copy(update={"block_m": 64})
    monkeypatch.setattr(tile_search, "BUCKETS", (4, None))
    monkeypatch.setattr(tile_search, "ROWS_OF_THE_LAST", 8)
    monkeypatch.setattr(tile_search, "candidates", lambda kernel, dtype: [TILE, wide])
    reports: list[str] = []
    layer = tile_search.Layer(width=16, hidden=8, experts=2, top_k=2)
    table = tile_search.tune(layer, torch.device("cpu"), torch.float32, reports.append, turns=1)
    tile_search.save(table, tmp_path / "tiles.json")
    small, large = read_table(tmp_path / "tiles.json")["interpreter"]
    assert (small.rows_per_expert, large.rows_per_expert) == (4, None)
    assert {tile for _, tile in small if isinstance(tile, Tile)} <= {TILE, wide}
    assert len(reports) == 2 * len(tile_search.KERNELS)
    assert "2 tried, 0 do not fit" in reports[0]
