from __future__ import annotations

import numpy as np

from evenload.dashboard.charts.learning_curves import MAX_POINTS, Curve, late_range, learning_curves
from evenload.dashboard.charts.style import says


def _curve(group: str, values: list[float], ended: str = "") -> Curve:
    steps = 10 * np.arange(1, len(values) + 1, dtype=np.float64)
    return Curve(f"{group}, seed 0", group, steps, np.array(values), ended)


def test_stopped_trials_are_faint_and_end_in_a_cross_that_says_why() -> None:
    chart = learning_curves(
        [_curve("sign", [4.0, 3.0]), _curve("sign", [4.0], "stopped: 8th of 9")], "steps", "loss"
    )
    whole, faint, cross = chart.data
    assert (whole.opacity, faint.opacity) == (0.9, 0.3)
    assert (whole.showlegend, faint.showlegend, cross.showlegend) == (True, False, False)
    assert (list(cross.x), list(cross.y)) == ([10.0], [4.0])
    assert cross.text == ("sign, seed 0<br>stopped: 8th of 9",)
    assert "1 of them stopped early. Lowest at its end: sign, seed 0, 3.000" in says(chart)


def test_trials_of_a_setting_share_a_trace_parted_by_gaps() -> None:
    chart = learning_curves([_curve("a", [2.0, 1.0]), _curve("a", [3.0])], "tokens", "loss")
    np.testing.assert_allclose(chart.data[0].y, [2, 1, np.nan, 3, np.nan])


def test_picture_ends_where_curves_fall_no_longer_steeply() -> None:
    low, high = late_range([_curve("a", [100.0, 5.0, 4.0, 3.0, 2.0, 2.0, 2.0])]) or (0, 0)
    assert 1.8 < low < 2
    assert 5 < high < 5.2
    assert late_range([]) is None


def test_many_long_curves_stay_small_and_keep_their_ends() -> None:
    curves = [_curve(f"s{i % 50}", np.linspace(5, 2 + i / 1000, 400).tolist()) for i in range(500)]
    chart = learning_curves(curves, "steps", "loss")
    assert sum(len(trace.y) for trace in chart.data) <= MAX_POINTS + 2 * 500
    assert np.float32(2 + 50 / 1000) in chart.data[0].y
    assert len(chart.to_json()) < 300_000
