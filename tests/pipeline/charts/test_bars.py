"""Bar charts: order, axes and labels, and the chart of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenload.pipeline.charts import cost, parameters, simulation, specialisation
from evenload.pipeline.charts.style import BLUE, ORANGE, Chart, description, document, tables


def _columns(chart: Chart) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = tables(chart)[0].to_pydict()
    return {name: [_rounded(value) for value in values] for name, values in columns.items()}


def _rounded(value: Any) -> Any:
    return round(value, 5) if isinstance(value, float) else value


def _waits(label: str, share: float, sizes: tuple[int, ...] = (2, 4), **more: Any) -> Any:
    share_R = {size: share * size / 4 for size in sizes}
    low_R = {size: 0.9 * value for size, value in share_R.items()}
    high_R = {size: 1.2 * value for size, value in share_R.items()}
    return cost.SettingWaits(label, share_R, low_R, high_R, **({"experts": 16} | more))


def test_lines_end_at_the_largest_possible_number_of_ranks() -> None:
    chart = cost.waits_by_ranks([_waits("none", 0.4), _waits("sign", 0.1, (2,))], [2, 4], 4)
    columns = _columns(chart)
    assert columns["setting"] == ["none", "none", "sign"]
    assert columns[cost.RANKS] == ["2", "4", "2"]
    assert columns[cost.WAITS] == [20, 40, 5]
    assert "to 40.0 % with none, 16 experts" in description(chart)


def test_settings_differ_in_colour_and_expert_counts_in_dashes() -> None:
    few, many = _waits("none", 0.4), _waits("none", 0.5, experts=32)
    encoding = document(cost.waits_by_ranks([few, many], [2, 4], 4))["layer"][0]["encoding"]
    assert encoding["color"]["scale"]["domain"] == ["none"]
    assert encoding["strokeDash"]["scale"]["domain"] == ["16 experts", "32 experts"]
    assert len({tuple(dash) for dash in encoding["strokeDash"]["scale"]["range"]}) == 2


def test_bars_are_sorted_and_have_whiskers() -> None:
    found = [_waits("none", 0.4, trials=3), _waits("sign", 0.1, trials=3)]
    columns = _columns(cost.waits_by_setting(found, 4))
    assert columns["setting"] == ["sign, 16 experts", "none, 16 experts"]
    assert columns[cost.WAITS] == [10, 40]
    assert (columns["smallest"], columns["largest"]) == ([9, 36], [12, 48])
    assert "smallest" not in _columns(cost.waits_by_setting([_waits("none", 0.4)], 4))


def test_of_many_settings_the_cheapest_and_dearest_are_drawn() -> None:
    shares = _columns(cost.waits_by_setting([_waits(f"s{n}", n / 1000) for n in range(200)], 4))
    assert len(shares[cost.WAITS]) == cost.MAX_BARS
    assert (shares[cost.WAITS][0], shares[cost.WAITS][-1]) == (0, 19.9)


def test_description_without_loads() -> None:
    assert description(cost.waits_by_setting([], 8)).endswith("No setting has recorded loads.")


def test_hardest_group_comes_first() -> None:
    bits_G = np.array([1.0, 3.0, 2.0])
    chart = specialisation.loss_by_group(bits_G, ["easy", "hard", "middling"], "loss")
    assert list(_columns(chart).values()) == [["hard", "middling", "easy"], [3, 2, 1]]


def test_layers_are_bars_in_order() -> None:
    chart = specialisation.specialisation_by_layer(np.array([0.1, 0.3], np.float32), ["1", "2"])
    assert list(_columns(chart).values()) == [["1", "2"], [0.1, 0.3]]
    assert "0.100 to 0.300" in description(chart)


def test_spectrum_has_convexity_and_stable_step_in_its_description() -> None:
    chart = simulation.tie_spectrum(np.array([0.0, 0.5, 1.0, 4.0]))
    assert _columns(chart)["tokens that tie, share per unit of bias"] == [0.5, 1, 4]
    bars, note = document(chart)["layer"]
    assert bars["encoding"]["color"]["scale"]["range"] == [ORANGE, BLUE, BLUE]
    assert note["mark"]["text"] == "μ = 0.5"
    assert "limits the step to 0.5" in description(chart)


AXES = [
    parameters.ParallelAxis("rule", ["none", "sign", "sign"], ["none", "sign"]),
    parameters.ParallelAxis("step size", [None, 0.001, 0.1]),
    parameters.ParallelAxis("loss", [2.0, 2.5, 3.0]),
]


def test_every_run_has_a_place_on_each_of_its_axes() -> None:
    names = {"d1": "one", "d2": "two", "d3": "three"}
    chart = parameters.linked_runs(AXES, names, ("step size", "loss", "rule"), picked=["d3"])
    columns = _columns(chart)
    places = list(zip(columns["digest"], columns["axis"], columns["at"], strict=True))
    assert places == [
        ("d1", "rule", 0), ("d1", "loss", 0),  # it has no step size
        ("d2", "rule", 1), ("d2", "step size", 0), ("d2", "loss", 0.5),
        ("d3", "rule", 1), ("d3", "step size", 1), ("d3", "loss", 1),
    ]  # fmt: skip
    assert columns["picked"] == [False] * 5 + [True] * 3
    assert columns["y"][:2] == [2.0, 2.0]
    assert [axis.is_log for axis in AXES] == [False, True, False]
    assert [axis.ends for axis in AXES] == [("none", "sign"), ("0.001", "0.1"), ("2", "3")]
    assert "3 trials over rule, step size, loss. Below: loss against step size" in (
        description(chart)
    )


@pytest.mark.parametrize("values", [[None, None], [5.0, 5.0], []])
def test_axis_without_a_range_has_places_all_the_same(values: list[float | None]) -> None:
    assert parameters.ParallelAxis("x", values).places == [None if v is None else 0 for v in values]
