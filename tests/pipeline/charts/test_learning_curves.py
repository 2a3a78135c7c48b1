from __future__ import annotations

import numpy as np

from evenload.pipeline.charts.learning_curves import (
    MAX_POINTS,
    TrialCurve,
    late_range,
    learning_curves,
)
from evenload.pipeline.charts.style import description, document, tables


def _curve(setting: str, values: list[float], ended: str = "") -> TrialCurve:
    steps = 10 * np.arange(1, len(values) + 1, dtype=np.float64)
    return TrialCurve(f"{setting}, seed 0", setting, steps, np.array(values), ended)


def test_stopped_trials_are_faint_and_end_in_a_cross_with_the_reason() -> None:
    stopped = _curve("sign", [4.0, 3.5], "stopped: 8th of 9")._replace(name="sign, seed 1")
    chart = learning_curves([_curve("sign", [4.0, 3.0]), stopped], "steps", "loss")
    points, crosses = tables(chart)
    assert points["ended"].to_pylist() == ["", "", *["stopped: 8th of 9"] * 2]
    assert crosses.to_pylist() == [
        {
            "setting": "sign",
            "trial": "sign, seed 1",
            "ended": "stopped: 8th of 9",
            "digest": "",
            "optimizer step": 20.0,
            "loss": 3.5,
        }
    ]
    faint, full = document(chart)["layer"][0]["encoding"]["opacity"]["condition"]
    assert faint["test"]["and"][1] == "datum.ended != ''"
    assert faint["value"] < full["value"]
    assert "1 of them stopped early. Lowest at its end: sign, seed 0, 3.000" in description(chart)


def test_trials_of_a_setting_are_separate_lines_of_one_colour() -> None:
    chart = learning_curves([_curve("a", [2.0, 1.0]), _curve("b", [3.0])], "tokens", "loss")
    encoding = document(chart)["layer"][0]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["a", "b"]
    assert encoding["detail"]["field"] == "trial"
    assert encoding["x"]["title"] == "tokens trained"


def test_y_axis_ignores_the_first_fifth() -> None:
    low, high = late_range([_curve("a", [100.0, 5.0, 4.0, 3.0, 2.0, 2.0, 2.0])]) or (0, 0)
    assert 1.8 < low < 2
    assert 5 < high < 5.2
    assert late_range([]) is None


def test_many_long_curves_stay_small_and_keep_their_ends() -> None:
    curves = [_curve(f"s{i % 50}", np.linspace(5, 2 + i / 1000, 400).tolist()) for i in range(500)]
    (table,) = tables(learning_curves(curves, "steps", "loss"))
    assert len(table) <= MAX_POINTS + 500
    assert np.float32(2 + 50 / 1000) in table["loss"].to_numpy()
    assert table.nbytes < 350_000
