from __future__ import annotations

import json
from pathlib import Path

import pytest

from evenload.pipeline.errors import SpecError
from evenload.workers.kernels import tiles
from evenload.workers.kernels.tiles import SHIPPED, buckets_of, read_table, tiles_for


def test_few_rows_per_expert_take_smaller_tiles() -> None:
    few, many = (tiles_for(("sm_90",), rows, 64) for rows in (64 * 64, 64 * 64 + 1))
    assert few.up.block_m < many.up.block_m


def test_an_unknown_device_takes_the_next_name_that_is_known() -> None:
    shipped = read_table(SHIPPED)
    assert tiles_for(("some card", "sm_90", "default"), 10, 1) == shipped["sm_90"][0]
    assert tiles_for(("some card", "sm_80", "default"), 10, 1) == shipped["default"][-1]


def test_every_tile_has_sizes_that_the_kernels_accept() -> None:
    for buckets in read_table(SHIPPED).values():
        for bucket in buckets:
            for _, tile in bucket:
                if isinstance(tile, tiles.Tile):
                    sizes = (tile.block_m, tile.block_n, tile.block_k, tile.num_warps)
                    assert all(size & (size - 1) == 0 for size in sizes)
                    assert min(sizes[:3]) >= 16


def test_a_saved_table_comes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = json.loads(SHIPPED.read_text())
    (bucket,) = table["default"]
    bucket["up"]["group"] = 5
    (tmp_path / "tiles.json").write_text(json.dumps({"some card": [bucket]}))
    monkeypatch.setenv("EVENLOAD_TILES_FILE", str(tmp_path / "tiles.json"))
    buckets_of.cache_clear()
    assert tiles_for(("some card", "default"), 10, 1).up.group == 5
    assert tiles_for(("another card", "default"), 10, 1).up.group == 8
    buckets_of.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a table of tiles"),
        ('{"card": [{"up": {}}]}', "is not a table of tiles"),
        ('{"card": []}', "rows_per_expert: null"),
    ],
)
def test_a_broken_table_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        read_table(path)
