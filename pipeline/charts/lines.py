"""Line charts.

The tooltip has the values of all lines at the nearest x, or of many lines the largest, the median
and the smallest. A click in the legend highlights a line, a double click shows all again.

Shape suffixes: B bins of time, L expert layers, P points of a line.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart, Look, field

MAX_NAMED_LINES = 12  # with more, the legend would be larger than the chart
WORST = 3  # of many layers, so many are in the legend
SERIES = "series"
SUMMARY: dict[str, Any] = {"largest": "max", "median": "median", "smallest": "min"}


class Line(NamedTuple):
    """One line. NaN makes a gap."""

    name: str
    x_P: NDArray[Any]
    y_P: NDArray[Any]
    colour: str
    dash: Sequence[int] = style.SOLID
    in_legend: bool = True
    is_level: bool = False  # a level for comparison, left out of the tooltip


def line_chart(
    lines: Sequence[Line],
    x: str,
    y: str,
    description: str,
    height: float = 300,
    *,
    number: str = ".3f",
    x_number: str = ",d",
    from_zero: bool = False,
    is_log: tuple[bool, bool] = (False, False),
    holds: bool = False,
    has_dots: bool = False,
) -> Chart:
    """Lines with a legend.

    Args:     x, y: titles of the axes, with units, and names of the columns of the table
              number, x_number: d3 formats of y and of x
              from_zero: the y axis begins at zero
              is_log: whether x and whether y is logarithmic
              holds: a value holds until the next x: lines are drawn as steps
              has_dots: mark every point; if all lines have a single point, they are marked anyway
    """
    base = alt.Chart(_table(lines, x, y))
    key = style.legend([line.name for line in lines if line.in_legend], "stroke")
    picked = style.picker(SERIES, key)
    has_dots = has_dots or all(len(line.x_P) < 2 for line in lines)
    drawn = base.mark_line(
        clip=True,
        strokeWidth=1.6 if len(lines) <= MAX_NAMED_LINES else 1.2,
        interpolate="step-after" if holds else "linear",
        point=alt.OverlayMarkDef(size=60, opacity=1) if has_dots else False,
    ).encode(
        x=_axis(alt.X, x, [line.x_P for line in lines], is_log[0], format=x_number, tickCount=8),
        y=_axis(alt.Y, y, [line.y_P for line in lines], is_log[1], from_zero),
        opacity=style.lit(picked, 1.0, 0.15),
        **style.drawn_as(SERIES, {line.name: Look(line.colour, line.dash) for line in lines}, key),
    )
    pointer = _pointer(base, lines, x, y, number, x_number)
    return style.layered(
        drawn.add_params(picked, style.zoom()), pointer, description=description, height=height
    )


def layer_lines(
    value_BL: NDArray[Any], step_B: NDArray[np.int32], names: Sequence[str]
) -> list[Line]:
    """One line per layer. The legend has all, or of many the first, the last and the worst.

    The worst have the largest means in the last quarter of the bins.
    """
    shown = set(range(len(names)))
    if len(names) > MAX_NAMED_LINES:
        late_L = np.nan_to_num(value_BL[-max(1, len(value_BL) // 4) :]).mean(axis=0)
        shown = {0, len(names) - 1, *np.argsort(-late_L)[:WORST].tolist()}
    return [
        Line(f"layer {name}", step_B, value_BL[:, place], colour, in_legend=place in shown)
        for place, (name, colour) in enumerate(
            zip(names, style.ramp(style.FIRST_TO_LAST, len(names)), strict=True)
        )
    ]


def level(x_P: NDArray[Any], value: float, name: str) -> list[Line]:
    """A dashed horizontal line for comparison, or no line if there is no value or no x."""
    if not len(x_P) or not np.isfinite(value):
        return []
    return [Line(name, x_P[[0, -1]], np.full(2, value), style.RED, style.DASHED, is_level=True)]


def _table(lines: Sequence[Line], x: str, y: str) -> pa.Table:
    names, times = [line.name for line in lines], [len(line.x_P) for line in lines]
    x_N, y_N = (np.concatenate([line[part] for line in lines]) for part in (1, 2))
    return style.table({SERIES: style.repeated(names, times), x: x_N, y: y_N})


def _axis(
    channel: Any,
    title: str,
    values: Sequence[NDArray[Any]],
    is_log: bool,
    from_zero: bool = False,
    **axis: Any,
) -> Any:
    if is_log:
        more = style.log_axis(float(value) for part in values for value in part)
    else:
        more = {"scale": alt.Scale(zero=from_zero, nice=channel is alt.Y), "axis": alt.Axis(**axis)}
    return style.number(channel, title, **more)


def _pointer(
    base: alt.Chart, lines: Sequence[Line], x: str, y: str, number: str, x_number: str
) -> alt.Chart:
    """A vertical rule at the x nearest to the pointer, with the values as tooltip."""
    if len(lines) <= MAX_NAMED_LINES:
        spots = base.transform_pivot(SERIES, value=field(y), groupby=[field(x)])
        shown = [line.name for line in lines if not line.is_level]
    else:
        parts = [
            alt.AggregatedFieldDef(op=operation, field=field(y), **{"as": name})
            for name, operation in SUMMARY.items()
        ]
        spots, shown = base.transform_aggregate(parts, groupby=[field(x)]), list(SUMMARY)
    near = alt.selection_point(on="pointerover", nearest=True, encodings=["x"])
    encoded = spots.mark_rule(color=style.MUTED, clip=True).encode(
        x=style.number(alt.X, x),
        opacity=style.lit(near, 0.6, 0, if_empty=False),
        tooltip=style.tips({x: x_number} | dict.fromkeys(shown, number)),
    )
    return encoded.add_params(near)
