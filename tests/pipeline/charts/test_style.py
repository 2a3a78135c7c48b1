"""Properties of all charts: small size, text alternative, both themes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

from evenload.pipeline.charts import loads, over_time, specialisation, style
from evenload.pipeline.charts.style import CATEGORIES, FIRST_TO_LAST, LOW_TO_HIGH, Chart, Colour

LIMIT_BYTES = 300_000
PAGE: dict[style.Theme, str] = {"light": "#ffffff", "dark": "#10151d"}
COLOURS = {name: value for name, value in vars(style).items() if isinstance(value, Colour)}
STEPS = np.arange(1, 100_000, 250, dtype=np.int32)
NAMES = [str(layer) for layer in range(58)]


def _random(*shape: int) -> Any:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _loads(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 32_000, shape, dtype=np.int16)


# One of each kind, at the size of a large run.
LARGE: dict[str, Callable[[], Chart]] = {
    "load over time": lambda: loads.load_over_time(_loads(400, 64), STEPS),
    "load of 256 experts": lambda: loads.load_over_time(_loads(390, 256), STEPS[:390]),
    "load by layer": lambda: loads.load_by_layer(_loads(58, 256), NAMES),
    "pairs of experts": lambda: specialisation.lift_map(_loads(256, 256), "expert", "next"),
    "bias paths": lambda: over_time.bias_paths(_random(400, 256), STEPS),
    "MaxVio": lambda: over_time.max_vio_over_time(_random(400, 58), STEPS, NAMES, 0.1),
    "loss": lambda: over_time.loss_curve(_random(400), _random(400) + 1, STEPS),
}


@cache
def _chart(name: str) -> Chart:
    return LARGE[name]()


@cache
def _spec(name: str, theme: style.Theme = "light") -> dict[str, Any]:
    document = style.document(_chart(name), theme)
    return {key: part for key, part in document.items() if key != "datasets"}


@pytest.mark.parametrize("large", LARGE)
def test_charts_of_large_runs_stay_below_300_kilobytes(large: str) -> None:
    size = sum(table.nbytes for table in style.tables(_chart(large)))
    assert len(json.dumps(_spec(large))) + size < LIMIT_BYTES


@pytest.mark.parametrize("large", LARGE)
def test_every_chart_has_a_description_and_axis_titles(large: str) -> None:
    assert len(style.description(_chart(large))) > 40
    assert _spec(large)["layer"][0]["encoding"]["x"]["title"]


@pytest.mark.parametrize("large", LARGE)
def test_dark_charts_differ_only_in_colours(large: str) -> None:
    exchange = {str(colour): colour.dark for colour in COLOURS.values()}
    light, dark = (dict(_leaves(_spec(large, theme))) for theme in ("light", "dark"))
    assert light.keys() == dark.keys()
    changed = {place for place in light if light[place] != dark[place]}
    assert changed
    assert all(dark[place] == exchange[light[place]] for place in changed)


@pytest.mark.parametrize("large", LARGE)
def test_every_chart_uses_only_known_colours(large: str) -> None:
    ramps = {
        c for stops in (FIRST_TO_LAST, LOW_TO_HIGH) for n in (58, 64) for c in style.ramp(stops, n)
    }
    for place, value in _leaves(_spec(large)):
        if isinstance(value, str) and value.startswith("#"):
            assert value in {*map(str, COLOURS.values()), *CATEGORIES, *ramps}, place


def test_a_chart_keeps_its_own_colours_when_it_is_themed() -> None:
    nothing = np.zeros(2, np.float32)
    chart = over_time.loss_curve(nothing, nothing, STEPS[:2])
    style.themed(chart, "dark")
    assert "#5b6773" in json.dumps(style.document(chart))


def test_every_colour_has_one_counterpart() -> None:
    for theme in ({*map(str, COLOURS.values())}, {c.dark for c in COLOURS.values()}):
        assert len(theme) == len(COLOURS) == 20


@pytest.mark.parametrize("theme", PAGE)
def test_text_and_lines_stand_out_from_the_page(theme: style.Theme) -> None:
    for colour, least in (
        *((c, 4.5) for c in (style.INK, style.MUTED)),
        *((c, 3) for c in (style.BLUE, style.ORANGE, style.GREEN, style.RED, style.IDLE)),
        *((c, 2.5) for c in (*CATEGORIES, *FIRST_TO_LAST, *LOW_TO_HIGH)),
    ):
        assert _contrast(style.exchanged(colour, theme), PAGE[theme]) >= least, colour


@pytest.mark.parametrize("theme", PAGE)
def test_idle_and_beyond_differ_in_lightness_from_all_loads(theme: style.Theme) -> None:
    for apart, least in ((style.IDLE, 1.8), (style.BEYOND, 1.5)):
        for load in loads.COLOURS:
            if not (apart is style.BEYOND and load is style.LOWEST):  # brown and blue
                assert _contrast(*style.exchanged((apart, load), theme)) >= least, load
    assert _contrast(*style.exchanged((style.IDLE, style.BEYOND), theme)) >= 1.8


@pytest.mark.parametrize("count", [0, 1, 9, 32, 33, 60])
def test_every_name_has_a_look_of_its_own(count: int) -> None:
    assert len(set(style.looks([str(place) for place in range(count)]).values())) == count


def test_a_legend_is_left_out_for_one_name() -> None:
    assert style.legend(["alone"]) is None
    assert style.legend(["one", "two"]) is not None


def test_ticks_of_logarithmic_axes_surround_the_values() -> None:
    assert {0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10} <= set(style.log_ticks([0.2, 6.0]))
    assert style.log_ticks([1e-6, 1.0])[1:4] == [1e-6, 1e-5, 1e-4]
    assert style.log_ticks([]) == []
    assert 0.5 in style.log_axis([0.0, -1.0, float("nan"), 0.5, 2.0])["axis"].values


def test_spans_compares_the_extremes() -> None:
    assert style.spans([0.1, 2.0])
    assert not style.spans([0.5, 2.0])
    assert not style.spans([0.0, 5.0])


def test_empty_histories_can_be_drawn() -> None:
    none_B, nothing_B = np.zeros(0, np.int32), np.zeros(0, np.float32)
    chart = over_time.max_vio_over_time(np.zeros((0, 1), np.float32), none_B, ["1"], 0.1)
    assert "Nothing is recorded yet" in style.description(chart)
    for empty in (
        chart,
        over_time.bias_paths(np.zeros((0, 4), np.float32), none_B),
        over_time.loss_curve(nothing_B, nothing_B, none_B),
    ):
        assert sum(map(len, style.tables(empty))) == 0


def _leaves(part: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(part, dict | list):
        items = part.items() if isinstance(part, dict) else enumerate(part)
        for key, value in items:
            yield from _leaves(value, f"{place}.{key}")
    else:
        yield place, part


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours.  Source: WCAG 2.2, 1.4.3"""
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
