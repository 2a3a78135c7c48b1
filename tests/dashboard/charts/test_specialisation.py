from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.specialisation import (
    CLIP_PERCENT,
    LIFT_SCALE,
    lift_map,
    load_by_group,
    loss_by_group,
    loss_by_k,
    specialisation_by_layer,
)
from evenload.dashboard.charts.style import LIGHT, says


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def test_groups_run_down_and_long_names_are_shortened() -> None:
    chart = load_by_group(np.array([[100, 250], [0, 90]], np.int16), ["prose", "c" * 40])
    assert np.asarray(_trace(chart).z).tolist() == [[100, 250], [0, 90]]
    assert [len(name) for name in _trace(chart).y] == [5, 24]
    assert "250 % of the fair share, on prose" in says(chart)


def test_chance_is_neutral_and_unknown_pairs_are_blank() -> None:
    chart = lift_map(np.array([[-1, 100], [250, -1]], np.int16), "expert", "expert")
    z = np.asarray(_trace(chart).z)
    assert np.isnan(z).tolist() == [[True, False], [False, True]]
    assert z[1, 0] == 250
    assert LIFT_SCALE[2] == [100 / CLIP_PERCENT, LIGHT.fair]
    assert "2.5 times as often" in says(chart)


def test_pairs_of_256_experts_stay_below_300_kilobytes() -> None:
    percent = np.random.default_rng(0).integers(0, 32_000, (256, 256), dtype=np.int16)
    np.fill_diagonal(percent, -1)
    assert len(lift_map(percent, "expert", "expert").to_json()) < 300_000


def test_hardest_group_comes_first() -> None:
    chart = loss_by_group(np.array([1.0, 3.0, 2.0]), ["easy", "hard", "middling"])
    assert list(_trace(chart).y) == ["hard", "middling", "easy"]
    assert list(_trace(chart).x) == [3.0, 2.0, 1.0]


def test_trained_k_stands_out_and_the_best_is_said() -> None:
    chart = loss_by_k(np.array([3.0, 2.0, 1.9]), np.array([1, 2, 4]), trained_k=2)
    assert list(_trace(chart, 1).x) == [2]
    assert list(_trace(chart, 1).y) == [2.0]
    assert "lowest 1.9000 nats per token at k = 4" in says(chart)


def test_layers_are_bars_in_order() -> None:
    chart = specialisation_by_layer(np.array([0.1, 0.3], np.float32), ["1", "2"])
    assert list(_trace(chart).x) == ["1", "2"]
    assert "0.100 to 0.300" in says(chart)
