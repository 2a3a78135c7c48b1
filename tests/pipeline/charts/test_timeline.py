"""Loss, MaxVio and events share one axis of steps and one brush."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.pipeline.charts.style import Chart, description, document, zoomed
from evenload.pipeline.charts.timeline import timeline
from evenload.pipeline.figures.events import Event

STEPS = np.arange(1, 5, dtype=np.int32)
EVENTS = [Event("collapse", 0, None, 2, 3, 1.5), Event("idle", 1, 7, 1, 4, 120.0)]


def _drawn(loss: float = 2.0, zoom: tuple[float, float] | None = None) -> dict[str, Any]:
    chart = _chart(loss)
    return document(chart if zoom is None else zoomed(chart, [zoom]))


def _chart(loss: float = 2.0) -> Chart:
    vio_BL = np.full((4, 2), [0.5, 1.5])
    return timeline(np.full(4, loss), "loss, nats", vio_BL, 0.1, STEPS, EVENTS, ["3", "4"])


def test_three_parts_share_steps_and_brush() -> None:
    drawn = _drawn()
    assert drawn["resolve"]["scale"]["x"] == "shared"
    (brush,) = drawn["params"]
    assert (brush["name"], len(brush["views"])) == ("zoom", 3)
    assert [part["encoding"]["x"]["field"] for part in drawn["vconcat"]] == ["optimizer step"] * 3
    assert description(_chart()).endswith("1 collapse and 1 idle.")


def test_events_say_what_happened() -> None:
    drawn = _drawn()
    rows = drawn["datasets"][drawn["vconcat"][0]["data"]["name"]]
    assert [(row["optimizer step"], row["last step"]) for row in rows] == [(2, 3), (1, 4)]
    assert rows[1]["what"] == "expert 7 of layer 4 idle for 120 steps"


def test_a_range_zooms_all_parts_and_keeps_events_that_reach_into_it() -> None:
    events, *lines = _drawn(zoom=(3.0, 4.0))["vconcat"]
    for part in (events, *lines):
        assert part["encoding"]["x"]["scale"]["domain"] == [3.0, 4.0]
    assert "transform" not in events


def test_without_a_loss_its_part_is_left_out() -> None:
    assert len(_drawn(loss=float("nan"))["vconcat"]) == 2
