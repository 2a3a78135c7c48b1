"""Line charts: points, levels, colours and legends."""

from __future__ import annotations

from typing import Any

import numpy as np

from evenload.pipeline.charts import comparison, lines, over_time, simulation, specialisation
from evenload.pipeline.charts.style import (
    DASHED,
    DOTTED,
    RED,
    Chart,
    description,
    document,
    tables,
    zoomed,
)

STEPS = np.array([1, 11, 41], np.int32)


def _series(chart: Chart) -> dict[str, list[tuple[float, float]]]:
    """The points of every line by name."""
    found: dict[str, list[tuple[float, float]]] = {}
    (table,) = tables(chart)
    for name, *point in zip(*(column.to_pylist() for column in table.columns), strict=True):
        found.setdefault(name, []).append((point[0], point[1]))
    return found


def _values(chart: Chart, name: str) -> list[float]:
    return [round(y, 5) for _, y in _series(chart)[name]]


def _encoding(chart: Chart, channel: str) -> dict[str, Any]:
    encoding: dict[str, Any] = document(chart)["layer"][0]["encoding"][channel]
    return encoding


def _looks(chart: Chart, channel: str) -> dict[str, Any]:
    scale = _encoding(chart, channel)["scale"]
    return dict(zip(scale["domain"], scale["range"], strict=True))


def test_lines_have_a_dashed_level() -> None:
    vio_BL = np.array([[0.5, 0.25], [0.4, 0.2], [0.3, 0.1]], np.float32)
    chart = over_time.max_vio_over_time(vio_BL, STEPS, ["1", "2"], 0.125)
    assert [step for step, _ in _series(chart)["layer 2"]] == [1, 11, 41]
    assert _values(chart, "layer 2") == [0.25, 0.2, 0.1]
    assert _series(chart)["sampling floor 0.12"] == [(1, 0.125), (41, 0.125)]
    assert _looks(chart, "strokeDash")["sampling floor 0.12"] == list(DASHED)
    assert _looks(chart, "color")["sampling floor 0.12"] == RED
    assert _encoding(chart, "y")["scale"]["zero"] is True
    assert "0.1 in layer 2 to 0.3 in layer 1" in description(chart)


def test_tooltip_has_all_lines_or_the_extremes_of_many() -> None:
    def shown(layers: int) -> list[str]:
        vio_BL, names = np.ones((3, layers), np.float32), [str(n) for n in range(layers)]
        spec = document(over_time.max_vio_over_time(vio_BL, STEPS, names, 0.1))
        return [tip["title"] for tip in spec["layer"][1]["encoding"]["tooltip"]]

    assert shown(2) == ["optimizer step", "layer 0", "layer 1"]
    assert shown(40) == ["optimizer step", "largest", "median", "smallest"]


def test_legend_of_many_layers_names_the_first_the_last_and_the_worst() -> None:
    value_BL = np.ones((8, 40))
    value_BL[-2:, [7, 21, 30]] = [[3, 2, np.nan], [3, 2, 9]]
    value_BL[0, 5] = 50  # long ago
    drawn = lines.layer_lines(value_BL, STEPS, [str(n) for n in range(40)])
    named = [line.name for line in drawn if line.in_legend]
    assert named == ["layer 0", "layer 7", "layer 21", "layer 30", "layer 39"]


def test_names_with_dots_and_brackets_are_escaped() -> None:
    dotted = [lines.Line(name, STEPS, STEPS, "#000000") for name in ("sign 0.01", "a[1]")]
    tips = document(lines.line_chart(dotted, "x", "y", ""))["layer"][1]["encoding"]["tooltip"]
    assert [tip["field"] for tip in tips] == ["x", "sign 0\\.01", "a\\[1\\]"]


def test_idle_experts_are_percent_with_the_level_of_chance() -> None:
    idle_BL, step_B = np.array([[0.0625], [0.0]], np.float32), STEPS[:2]
    chart = over_time.idle_over_time(idle_BL, step_B, ["1"], 0.02)
    assert _values(chart, "layer 1") == [6.25, 0]
    assert _values(chart, "by chance 2.00 %") == [2, 2]
    assert "by chance none" in _series(over_time.idle_over_time(idle_BL, step_B, ["1"], 1e-30))


def test_bias_paths_are_coloured_by_final_bias() -> None:
    bias_BE = np.array([[0, 0, 0], [1, -1, 0.5]], np.float32)
    chart = over_time.bias_paths(bias_BE, STEPS[:2])
    assert list(_series(chart)) == ["expert 1", "expert 2", "expert 0"]
    assert _values(chart, "expert 0") == [0, 1]
    assert "-1.0000 (expert 1) and 1.0000 (expert 0)" in description(chart)


def test_of_many_experts_the_extremes_are_drawn() -> None:
    bias_BE = np.arange(500, dtype=np.float32)[None].repeat(3, axis=0)
    names = list(_series(over_time.bias_paths(bias_BE, STEPS)))
    assert len(names) == over_time.MAX_BIASES
    assert (names[0], names[-1]) == ("expert 0", "expert 499")


def test_loss_has_a_line_for_the_largest_values_of_bins() -> None:
    loss_B, spike_B = np.array([2.0, 1.0], np.float32), np.array([2.5, 9.0], np.float32)
    binned = over_time.loss_curve(loss_B, spike_B, STEPS[:2])
    assert list(_series(binned)) == ["largest in bin", "training loss"]
    assert _values(binned, "largest in bin") == [2.5, 9]
    assert list(_series(over_time.loss_curve(loss_B, loss_B, STEPS[:2]))) == ["training loss"]
    assert _encoding(binned, "y")["title"] == "loss, nats per token"


def test_a_single_step_is_a_point() -> None:
    chart = over_time.single_curve(np.ones(1), STEPS[:1], "tokens per second", ",.0f")
    assert document(chart)["layer"][0]["mark"]["point"]


def test_many_points_are_pooled_and_the_peak_is_kept() -> None:
    few = over_time.single_curve(np.array([10.0, 30.0]), np.array([5.0, 9.0]), "GiB", ",.1f")
    assert _series(few)["GiB"] == [(5, 10), (9, 30)]
    assert description(few) == "GiB over time: from 10.0 to 30.0; lowest 10.0, highest 30.0."
    value_N = np.full(60_001, 50.0)
    value_N[31_415] = 99.0
    many = over_time.single_curve(value_N, np.arange(60_001), "% busy", ",.1f")
    points = _series(many)["% busy"]
    assert len(points) == over_time.MAX_POINTS
    step, value = max(points, key=lambda point: point[1])
    assert value == 99
    assert abs(step - 31_415) < 60_001 / over_time.MAX_POINTS


def test_trained_k_is_highlighted() -> None:
    chart = specialisation.loss_by_k(np.array([3.0, 2.0, 1.9]), np.array([1, 2, 4]), 2, "loss")
    assert _series(chart)["trained with k = 2"] == [(2, 2)]
    assert document(chart)["layer"][0]["mark"]["point"]
    assert "lowest 1.9000 at k = 4" in description(chart)


def test_every_run_has_its_floor_in_its_colour() -> None:
    x_B, y_B = np.array([1.0, 2.0]), np.array([0.5, 0.25], np.float32)
    runs = {"a": comparison.RunCurve(x_B, y_B, 0.125), "b": comparison.RunCurve(x_B, 2 * y_B)}
    chart = comparison.run_curves(runs, "steps", "MaxVio")
    assert _values(chart, "floor of a") == [0.125, 0.125]
    colours, dashes = _looks(chart, "color"), _looks(chart, "strokeDash")
    assert colours["floor of a"] == colours["a"] != colours["b"]
    assert dashes["floor of a"] == list(DOTTED)
    assert _encoding(chart, "color")["legend"]["values"] == ["a", "b"]


def test_eight_runs_differ_in_colour_or_dash() -> None:
    one = comparison.RunCurve(np.array([1.0, 2.0]), np.array([1.0, 2.0], np.float32))
    chart = comparison.run_curves({f"run {n}": one for n in range(8)}, "steps", "loss")
    looks = zip(_looks(chart, "color").values(), _looks(chart, "strokeDash").values(), strict=True)
    assert len({(colour, tuple(dash)) for colour, dash in looks}) == 8


def test_loads_by_rank_have_the_same_axis_for_all_expert_counts() -> None:
    chart = comparison.load_by_rank(
        {"few": np.array([150, 50], np.int16), "many": np.full(64, 100, np.int16)}
    )
    assert _series(chart)["few"] == [(0, 1.5), (50, 0.5), (100, 0.5)]
    assert len(_series(chart)["many"]) == 65
    assert _series(chart)["fair share"] == [(0, 1), (100, 1)]
    assert "few 1.50; many 1.00" in description(chart)


def _curve(regret: list[float]) -> simulation.RegretCurve:
    step_P, regret_P = np.arange(1, len(regret) + 1, dtype=np.int32), np.array(regret)
    gap_P = np.diff(regret_P, prepend=0)
    return simulation.RegretCurve(step_P, regret_P, gap_P, regret_P + 0.1, "log N")


def test_pooling_keeps_the_spike() -> None:
    value_N = np.full(10_000, 0.1, np.float32)
    value_N[7777] = 9.0
    step_P, pooled_P = simulation.pooled(value_N)
    assert len(step_P) <= 400
    assert step_P[pooled_P.argmax()] <= 7778 < step_P[pooled_P.argmax() + 1]


def test_simulated_max_vio_is_logarithmic_with_its_floor() -> None:
    chart = simulation.simulated_max_vio({"none": np.full(50, 5.0, np.float32)}, 0.177)
    assert _values(chart, "sampling floor 0.18") == [0.177, 0.177]
    assert _encoding(chart, "y")["scale"]["type"] == "log"
    assert "none 5.00" in description(chart)


def test_regret_is_logarithmic_unless_it_is_negative() -> None:
    chart = simulation.regret_growth({"none": _curve([1.0, 2.0, 3.0])})
    assert [_encoding(chart, side)["scale"]["type"] for side in "xy"] == ["log", "log"]
    mixed = simulation.regret_growth({"none": _curve([1.0, 2.0]), "tuned": _curve([0.1, -0.2])})
    assert "type" not in _encoding(mixed, "y")["scale"]
    assert _values(mixed, "tuned") == [0.1, -0.2]
    assert _looks(mixed, "strokeDash")["tuned: log N"] == list(DOTTED)


def test_descent_is_a_running_mean_of_positive_values() -> None:
    chart = simulation.dual_descent({"sign": _curve([4.0, 6.0, 6.0, -60.0])})
    np.testing.assert_allclose(_values(chart, "sign"), [4.0, 3.0, 2.0, np.nan])


def test_a_zoomed_chart_keeps_the_points_of_its_range() -> None:
    chart = over_time.single_curve(np.array([3.0, 2.0, 1.0]), STEPS, "norm", ".3g")
    drawn = document(zoomed(chart, [(10.0, 45.0)]))["layer"][0]
    assert drawn["transform"] == [{"filter": "inrange(datum['optimizer step'], [10.0, 45.0])"}]
    assert drawn["encoding"]["x"]["scale"]["domain"] == [10.0, 45.0]
