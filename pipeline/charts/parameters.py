"""All trials of a sweep over its parameters and figures, in linked views.

Letters: T trials.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart

LOG_SPAN = 20.0  # axes with a larger ratio of values are logarithmic
PARALLEL_PIXELS = 260
MANY = 100  # lines of so many trials are fainter


class ParallelAxis(NamedTuple):
    title: str
    value_T: Sequence[float | str | None]  # None: the trial has no value
    levels: Sequence[str] | None = None  # names in order; None: an axis of numbers

    @property
    def numbers(self) -> list[float]:
        return [float(v) for v in self.value_T if isinstance(v, int | float) and math.isfinite(v)]

    @property
    def is_log(self) -> bool:
        numbers = self.numbers if self.levels is None else []
        return bool(numbers) and min(numbers) > 0 and style.spans(numbers, LOG_SPAN)

    @property
    def ends(self) -> tuple[str, str]:
        """What the lower and the upper end mean."""
        if self.levels is not None:
            return (self.levels[0], self.levels[-1]) if self.levels else ("–", "–")
        numbers = self.numbers or [math.nan]
        return f"{min(numbers):.3g}", f"{max(numbers):.3g}"

    @property
    def places(self) -> list[float | None]:
        """Where the values lie, from 0 at the lower end to 1."""
        if self.levels is not None:
            last = max(1, len(self.levels) - 1)
            return [None if v is None else self.levels.index(str(v)) / last for v in self.value_T]
        numbers = [None if v is None else float(v) for v in self.value_T]
        if self.is_log:
            numbers = [None if v is None else math.log(v) for v in numbers]
        known = [v for v in numbers if v is not None] or [0.0]
        low, span = min(known), (max(known) - min(known)) or 1.0
        return [None if v is None else (v - low) / span for v in numbers]


def linked_runs(
    axes: Sequence[ParallelAxis],
    names: Mapping[str, str],
    shown: tuple[str, str, str],
    picked: Collection[str] = (),
) -> Chart:
    """All trials over all axes, and over two of them, linked in the browser.

    Dragging in either view fades the trials outside; a click opens a run; the rest is hovered.

    Args:     names: digest -> name, in the order of the values of the axes
              shown: titles of the axes for x, y and the colour
              picked: digests of trials that are drawn on top
    """
    by_title = {axis.title: axis for axis in axes}
    x, y, colour = (by_title[title] for title in shown)
    base = alt.Chart(style.table(_linked_columns(axes, names, (x, y, colour), picked)))
    along = alt.selection_interval(name="along", encodings=["x", "y"])
    region = alt.selection_interval(name="region", encodings=["x", "y"])
    base = (
        base.transform_calculate(
            on_axis=_is_hit("along"), inside=_is_hit("region"), top="datum.picked ? 1 : 0"
        )
        .transform_joinaggregate(passes="max(on_axis)", groupby=["digest"])
        .transform_calculate(is_lit="datum.inside && datum.passes")
    )
    opacity = alt.OpacityValue(
        0.04,
        condition=[
            {"test": "datum.is_lit && datum.picked", "value": 1.0},
            {"test": "datum.is_lit", "value": 0.55 if len(names) < MANY else 0.3},
        ],
    )
    look: dict[str, Any] = {
        "color": _colour(colour),
        "opacity": opacity,
        "tooltip": style.tips({"trial": "", "of x": "", "of y": "", "of colour": ""}),
    }
    lines = base.mark_line(strokeWidth=1.3, cursor="pointer").encode(
        x=style.name(alt.X, "axis", sort=None, title=None, axis=_parallel_axis(axes)),
        y=style.number(alt.Y, "at", axis=None, scale=alt.Scale(domain=[0, 1])),
        detail=style.name(alt.Detail, "digest"),
        order=alt.Order(field="place", type="quantitative"),
        strokeWidth=alt.condition("datum.picked", alt.value(3), alt.value(1.2)),
        **look,
    )
    dots = (
        base.transform_filter("datum.place === 0")
        .mark_point(filled=True, size=60, cursor="pointer")
        .encode(x=_scatter(alt.X, x), y=_scatter(alt.Y, y), **look)
    )
    chart = alt.vconcat(
        lines.add_params(along, style.opener(style.OPEN_LINE)).properties(height=PARALLEL_PIXELS),
        dots.add_params(region, style.opener()).properties(height=PARALLEL_PIXELS),
    )
    return chart.properties(description=_linked_description(axes, len(names), shown))


def _is_hit(brush: str) -> str:
    """Whether a row lies within the brush, or nothing is brushed."""
    store = f"{brush}_store"
    return f"!length(data('{store}')) || vlSelectionTest('{store}', datum) ? 1 : 0"


def _linked_columns(
    axes: Sequence[ParallelAxis],
    names: Mapping[str, str],
    shown: Sequence[ParallelAxis],
    picked: Collection[str],
) -> dict[str, Any]:
    """One row per trial and axis on which it has a value."""
    at = [axis.places for axis in axes]
    rows = [
        (place, trial, digest)
        for trial, digest in enumerate(names)
        for place in range(len(axes))
        if at[place][trial] is not None
    ]
    columns: dict[str, Any] = {
        "digest": [digest for *_, digest in rows],
        "trial": [names[digest] for *_, digest in rows],
        "place": [place for place, *_ in rows],
        "axis": [axes[place].title for place, *_ in rows],
        "at": [at[place][trial] for place, trial, _ in rows],
        "picked": [digest in picked for *_, digest in rows],
    }
    for name, axis in zip(("x", "y", "colour"), shown, strict=True):
        columns[name] = [axis.value_T[trial] for _, trial, _ in rows]
        columns[f"of {name}"] = [f"{axis.title}: {_text(axis.value_T[t])}" for _, t, _ in rows]
    return columns


def _parallel_axis(axes: Sequence[ParallelAxis]) -> alt.Axis:
    """The title of every axis, with what its lower and its upper end mean."""
    ends = {axis.title: f"{axis.ends[0]} … {axis.ends[1]}" for axis in axes}
    label = f"[datum.label, {json.dumps(ends)}[datum.label]]"
    return alt.Axis(labelExpr=label, labelAngle=0, grid=True, domain=False, labelLimit=130)


def _colour(axis: ParallelAxis) -> alt.Color:
    if axis.levels is not None:
        looks = {name: look.colour for name, look in style.looks(axis.levels).items()}
        return style.scaled(alt.Color, "colour", looks, alt.Legend(title=axis.title))
    kind: Any = "log" if axis.is_log else "linear"
    scale = alt.Scale(range=list(style.LOW_TO_HIGH), type=kind, interpolate="rgb")
    key = alt.Legend(title=axis.title, type="gradient", gradientLength=200, gradientThickness=10)
    return style.number(alt.Color, "colour", title=axis.title, scale=scale, legend=key)


def _scatter(channel: Any, axis: ParallelAxis) -> Any:
    name = "x" if channel is alt.X else "y"
    if axis.levels is not None:
        return style.name(channel, name, title=axis.title, sort=list(axis.levels))
    if axis.is_log:
        return style.number(channel, name, title=axis.title, **style.log_axis(axis.numbers))
    scale = alt.Scale(zero=False, nice=False, padding=8)
    return style.number(channel, name, title=axis.title, scale=scale)


def _text(value: float | str | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def _linked_description(
    axes: Sequence[ParallelAxis], trials: int, shown: tuple[str, str, str]
) -> str:
    titles = ", ".join(axis.title for axis in axes)
    return (
        f"Parallel coordinates of {trials} trials over {titles}. Below: {shown[1]} against "
        f"{shown[0]}. Colour: {shown[2]}."
    )
