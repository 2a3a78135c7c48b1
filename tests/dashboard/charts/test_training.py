from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.training import loss_curve, throughput_curve


def _trace(chart: go.Figure, index: int = 0) -> Any:
    return chart.data[index]


def test_loss_shows_the_largest_value_of_each_bin_where_bins_hold_steps() -> None:
    step_B = np.array([1, 11], np.int32)
    loss_B, spike_B = np.array([2.0, 1.0], np.float32), np.array([2.5, 9.0], np.float32)
    binned = loss_curve(loss_B, spike_B, step_B)
    assert [trace.name for trace in binned.data] == ["largest in bin", "training loss"]
    assert list(_trace(binned).y) == [2.5, 9.0]
    assert len(loss_curve(loss_B, loss_B, step_B).data) == 1


def test_lines_stand_at_their_steps_even_and_uneven() -> None:
    rate_B = np.array([1.0, 2.0, 3.0], np.float32)
    even = _trace(throughput_curve(rate_B, np.array([1, 11, 21], np.int32)))
    assert (even.x0, even.dx, even.x) == (1, 10, None)
    uneven = _trace(throughput_curve(rate_B, np.array([1, 11, 41], np.int32)))
    assert list(uneven.x) == [1, 11, 41]


def test_axes_carry_units() -> None:
    step_B, line_B = np.array([1, 2], np.int32), np.array([1.0, 2.0], np.float32)
    assert "tokens per second" in throughput_curve(line_B, step_B).layout.yaxis.title.text
    assert "nats" in loss_curve(line_B, line_B, step_B).layout.yaxis.title.text
