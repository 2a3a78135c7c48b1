"""What holds for every chart: small on the wire, said in words, readable on both grounds."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from evenload.dashboard.charts import balance, biases, loads, style, training
from evenload.dashboard.charts.style import CATEGORIES, DARK, FIRST_TO_LAST, LIGHT, LOW_TO_HIGH
from evenload.dashboard.charts.sweep_grid import GRID_METRICS, sweep_grid
from evenload.dashboard.record_tables import Grid

LIMIT_BYTES = 300_000
PAGE = {"light": "#ffffff", "dark": "#10151d"}
STEPS = np.arange(1, 100_000, 250, dtype=np.int32)
NAMES = [str(layer) for layer in range(58)]


def _random(*shape: int) -> Any:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _loads(*shape: int) -> Any:
    return np.random.default_rng(0).integers(0, 32_000, shape, dtype=np.int16)


def _grid() -> Grid:
    settings = [f"sign {10.0**-row:g}" for row in range(60)]
    return Grid(settings, [2**c for c in range(8)], _random(60, 8), [[""] * 8] * 60)


# One of each chart, at the size of a large run.
LARGE: dict[str, Callable[[], go.Figure]] = {
    "load over time": lambda: loads.load_over_time(_loads(400, 64), STEPS),
    "load of 256 experts": lambda: loads.load_over_time(_loads(390, 256), STEPS[:390]),
    "load by layer": lambda: loads.load_by_layer(_loads(58, 256), NAMES),
    "bias paths": lambda: biases.bias_paths(_random(400, 256), STEPS),
    "MaxVio": lambda: balance.max_vio_over_time(_random(400, 58), STEPS, NAMES, 0.1),
    "idle": lambda: balance.idle_over_time(_random(400, 58), STEPS, NAMES, 0.1),
    "loss": lambda: training.loss_curve(_random(400), _random(400), STEPS),
    "throughput": lambda: training.throughput_curve(_random(400), STEPS),
    "sweep grid": lambda: sweep_grid(_grid(), GRID_METRICS[0]),
}


@pytest.fixture(params=LARGE)
def large(request: pytest.FixtureRequest) -> go.Figure:
    return LARGE[request.param]()


def test_charts_of_large_runs_stay_below_300_kilobytes(large: go.Figure) -> None:
    assert len(large.to_json()) < LIMIT_BYTES


def test_every_chart_says_what_it_shows_and_names_its_axes(large: go.Figure) -> None:
    assert len(style.says(large)) > 40
    assert large.layout.xaxis.title.text


def test_dark_charts_differ_in_colours_alone(large: go.Figure) -> None:
    light, dark = (json.loads(style.themed(large, theme).to_json()) for theme in ("light", "dark"))
    exchange = dict(zip(LIGHT, DARK, strict=True))
    assert dict(_strings(light)).keys() == dict(_strings(dark)).keys()
    for place, value in _strings(light):
        assert dict(_strings(dark))[place] == exchange.get(value, value), place
    assert light["data"][0].get("z") == dark["data"][0].get("z")


def test_no_chart_has_a_colour_that_only_suits_one_ground(large: go.Figure) -> None:
    both = {*CATEGORIES, *(stop[1] for stop in FIRST_TO_LAST + LOW_TO_HIGH)}
    for place, value in _strings(json.loads(large.to_json())):
        if value.startswith("#"):
            assert value in {*LIGHT, *both}, place
        elif value.startswith("rgb("):
            red, green, blue = (int(float(part)) for part in value[4:-1].split(","))
            for ground in PAGE.values():
                assert _contrast(f"#{red:02x}{green:02x}{blue:02x}", ground) >= 2.5, place


def test_themes_exchange_every_colour_both_ways() -> None:
    assert len(set(LIGHT)) == len(LIGHT)
    assert len(set(DARK)) == len(DARK)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_page(theme: style.Theme) -> None:
    colours, ground = style.THEMES[theme], PAGE[theme]
    for text in (colours.ink, colours.muted):
        assert _contrast(text, ground) >= 4.5
    for accent in (colours.blue, colours.orange, colours.green, colours.red, colours.idle):
        assert _contrast(accent, ground) >= 3
    for drawn in (*CATEGORIES, *(str(stop[1]) for stop in FIRST_TO_LAST + LOW_TO_HIGH)):
        assert _contrast(drawn, ground) >= 2.5


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_idle_is_told_from_every_load(theme: style.Theme) -> None:
    colours = style.THEMES[theme]
    for load in (colours.lowest, colours.low, colours.fair, colours.high, colours.highest):
        assert _contrast(colours.idle, load) >= 1.8


def test_maps_travel_as_16_bit_numbers_in_both_themes() -> None:
    chart = loads.load_over_time(np.full((400, 64), 100, np.int16), STEPS)
    for theme in style.THEMES:
        sent = json.loads(style.themed(chart, theme).to_json())
        assert sent["data"][0]["z"]["dtype"] == "i2"


def test_empty_histories_can_be_drawn() -> None:
    none_B = np.zeros(0, np.int32)
    chart = balance.max_vio_over_time(np.zeros((0, 1), np.float32), none_B, ["1"], 0.1)
    assert len(chart.data) == 1
    assert "Nothing is recorded yet" in style.says(chart)
    assert len(biases.bias_paths(np.zeros((0, 4), np.float32), none_B).data) == 4
    nothing_B = np.zeros(0, np.float32)
    assert len(training.loss_curve(nothing_B, nothing_B, none_B).data) == 1


def test_charts_do_not_know_streamlit() -> None:
    for path in Path(str(style.__file__)).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not [name for name in modules | names if name and name.startswith("streamlit")]


def _strings(part: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(part, dict):
        for key, value in part.items():
            yield from _strings(value, f"{place}.{key}")
    elif isinstance(part, list):
        for index, value in enumerate(part):
            yield from _strings(value, f"{place}[{index}]")
    elif isinstance(part, str):
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
