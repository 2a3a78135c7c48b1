"""A grid with one figure of a sweep by setting and place, such as an expert count.

Shape suffixes: R settings, C places.
"""

from typing import NamedTuple

import altair as alt
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart
from evenload.pipeline.figures.metrics import Metric

COUNT, COUNTS, PLACES = " experts", "experts per layer", "place"
ON_BRIGHT, ON_DARK = "#1f2933", "#ffffff"  # colours of the numbers in cells


class Grid(NamedTuple):
    """One figure of a sweep, with one row (R) per setting and one column (C) per place."""

    setting_R: list[str]
    place_C: list[str]
    value_RC: NDArray[np.float32]  # mean over finished seeds, shares in percent; NaN without one
    note_RC: list[list[str]]  # why a cell has no value


def sweep_grid(
    grid: Grid, metric: Metric, unit: str | None = None, least_span: float = 0.0
) -> Chart:
    """A coloured grid with the number of every cell, or the reason why there is none.

    Args:     unit: of the values, if it is not that of the metric
              least_span: smallest distance of the best from the worst colour
    """
    value, (R, C) = f"{metric.title}, {unit or metric.unit}", grid.value_RC.shape
    is_count = all(place.removesuffix(COUNT).isdigit() for place in grid.place_C)
    across = COUNTS if is_count else PLACES
    places = [place.removesuffix(COUNT) if is_count else place for place in grid.place_C]
    columns = {
        "setting": pa.array(np.repeat(grid.setting_R, C), pa.string()),
        across: pa.array(places * R, pa.string()),
        value: pa.array(grid.value_RC.ravel(), from_pandas=True),  # NaN becomes null
        "shown": pa.array(_texts(grid, metric), pa.string()),
    }
    factor = 100 if metric.is_share else 1
    finite = (grid.value_RC[np.isfinite(grid.value_RC)] / factor).tolist()
    best, worst = (factor * end for end in metric.colour_range(finite))
    if least_span:
        worst = max(worst, best + least_span)
    here = f"datum['{style.field(value)}']"
    ends = sorted([(best, style.GOOD), ((best + worst) / 2, style.MIDDLING), (worst, style.BAD)])
    ramp = alt.Scale(
        domain=[end for end, _ in ends], range=[c for _, c in ends], clamp=True, interpolate="rgb"
    )
    blank = f"!isValid({here})"
    ground = {"test": blank, "value": style.GROUND}
    inks = [
        {"test": blank, "value": style.INK},
        {"test": f"luminance(scale('color', {here})) > 0.2", "value": ON_BRIGHT},
    ]
    plain, band = alt.Axis(labelAngle=0, domain=False, grid=False), alt.RelativeBandSize(band=0.96)
    base = alt.Chart(style.table(columns)).encode(
        x=style.name(alt.X, across, sort=None, axis=plain),
        y=style.name(alt.Y, "setting", sort=None, title=None, axis=plain),
    )
    cells = base.mark_rect(width=band, height=band).encode(
        color=style.number(alt.Color, value, scale=ramp, legend=None, condition=ground),
        tooltip=style.tips({"setting": "", across: "", value: ".4~g"}),
    )
    texts = base.mark_text(fontSize=13).encode(
        text=style.name(alt.Text, "shown"), color=alt.ColorValue(ON_DARK, condition=inks)
    )
    return style.layered(
        cells, texts, description=_description(grid, metric), height=max(220, 90 + 34 * R)
    )


def _texts(grid: Grid, metric: Metric) -> list[str]:
    notes = (note for row in grid.note_RC for note in row)
    return [
        _shown(value, metric) if np.isfinite(value) else note
        for value, note in zip(grid.value_RC.ravel().tolist(), notes, strict=True)
    ]


def _description(grid: Grid, metric: Metric) -> str:
    """Names the best cell."""
    text = f"{metric.title} of {len(grid.setting_R)} settings at {len(grid.place_C)} places"
    if not np.isfinite(grid.value_RC).any():
        return f"{text}. No trial has a figure yet."
    best = np.nanargmax if metric.better == "higher" else np.nanargmin
    unit = metric.unit.removeprefix("%")
    row, column = np.unravel_index(best(grid.value_RC), grid.value_RC.shape)
    return (
        f"{text}. Best is {grid.setting_R[row]} at {grid.place_C[column]}: "
        f"{_shown(float(grid.value_RC[row, column]), metric)} {unit}".strip()
        + "."
    )


def _shown(value: float, metric: Metric) -> str:
    return metric.shown(value / 100 if metric.is_share else value)
