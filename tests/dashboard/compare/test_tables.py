from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evenload.dashboard.compare.tables import (
    at_depths,
    at_shares,
    by_rank,
    comparison_table,
    difference,
    incomparable,
    spec_differences,
)


def test_experts_are_sorted_by_load_in_every_layer() -> None:
    one = by_rank(np.array([[10, 300, 90], [100, 0, 200]], np.int16))
    assert one.tolist() == [[300, 90, 10], [200, 100, 0]]


def test_few_experts_fill_several_cells_and_of_many_the_peak_is_kept() -> None:
    few = at_shares(np.array([[50, 150]], np.int16), cells=4)
    assert few.tolist() == [[150, 150, 50, 50]]
    many_E = np.full(256, 90, np.int16)
    many_E[17] = 900
    many = at_shares(many_E[None], cells=4)
    assert many.tolist() == [[900, 90, 90, 90]]


@pytest.mark.parametrize(("layers", "rows"), [(2, 4), (4, 2), (3, 3), (26, 4), (1, 8)])
def test_depths_take_the_layer_at_the_middle(layers: int, rows: int) -> None:
    taken = at_depths(np.arange(layers)[:, None], rows)[:, 0]
    assert len(taken) == rows
    assert (np.diff(taken) >= 0).all()
    middles = (np.arange(rows) + 0.5) / rows
    assert (taken / layers <= middles).all()
    assert (middles < (taken + 1) / layers).all()


def test_order_of_experts_makes_no_difference() -> None:
    rng = np.random.default_rng(0)
    load_LE = rng.integers(0, 300, (4, 32)).astype(np.int16)
    assert not difference(load_LE, load_LE[:, rng.permutation(32)]).any()


def test_difference_has_the_rows_of_the_deeper_run() -> None:
    even = np.full((2, 8), 100, np.int16)
    skewed = np.tile(np.array([[300, 100, 0, 0]], np.int16), (5, 1))
    points = difference(skewed, even)
    assert points.shape == (5, 64)
    assert points[0, 0] == 200
    assert points[4, -1] == -100
    assert (difference(even, skewed) == -points).all()


def test_difference_to_uncounted_steps_is_zero() -> None:
    uncounted = np.full((1, 4), -1, np.int16)
    assert not difference(uncounted, np.full((1, 4), 150, np.int16)).any()


@pytest.fixture
def runs(demo: Any) -> dict[str, Any]:
    return {
        "small": demo.trial("finished", "sign 0.01", 8),
        "large": demo.trial("finished", "none", 32),
    }


def test_table_has_one_row_per_run_with_its_own_floor(runs: dict[str, Any]) -> None:
    table = comparison_table(runs)
    assert table.run.tolist() == ["small", "large"]
    assert table.experts.tolist() == [8, 32]
    assert table.max_vio_floor.is_monotonic_increasing
    assert table.effective_util.between(0, 100).all()


def test_only_settings_that_differ_are_listed(runs: dict[str, Any]) -> None:
    rows = {setting: values for setting, *values in spec_differences(runs).to_numpy().tolist()}
    assert rows["model.num_experts"] == ["8", "32"]
    assert rows["balancer.kind"] == ["sign", "none"]
    assert rows["balancer.step_size"] == ["0.01", "–"]
    assert "train.steps" not in rows
    assert spec_differences({"a": runs["small"], "b": runs["small"]}).empty


def test_losses_of_different_data_or_budgets_are_incomparable(runs: dict[str, Any]) -> None:
    small = runs["small"]
    assert incomparable([*runs.values()]) == []
    longer = replace(small, spec=small.spec | {"train": small.spec["train"] | {"steps": 301}})
    assert incomparable([small, longer]) == ["they train on different numbers of tokens"]
    other = {"kind": "synthetic"}
    elsewhere = replace(small, spec=small.spec | {"data": other})
    assert incomparable([small, elsewhere]) == ["they read different data"]
