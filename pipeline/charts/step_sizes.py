"""A figure of one rule against its step size, with one line per place, such as an expert count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart
from evenload.pipeline.figures.step_curves import Role, StepCurve, StepFigure

STEP = "step size"
SHAPES: dict[Role, str] = {
    "other": "circle",
    "tied in evenness": "square",
    "most even so far": "diamond",
    "named": "diamond",
}
SIZES: dict[Role, int] = {
    "other": 45,
    "tied in evenness": 110,
    "most even so far": 200,
    "named": 200,
}
MANY, SMALL = 20, 0.2  # points of so many step sizes, named ones apart, have this part of the size
LOG_SPAN = 3.0  # a logarithmic figure whose values differ by less has a linear axis


def step_chart(
    curves: Sequence[StepCurve],
    figure: StepFigure,
    advised: Mapping[str, tuple[float, float]] | None = None,
    height: float = 320,
) -> Chart:
    """Mean over seeds by step size on a logarithmic axis, with the band of its 95 % interval.

    A diamond is the named setting or, without a claim, the most even one; squares are tied with it.
    Dashed: the value by chance.

    Args:     curves: of one rule; step sizes are above 0
              advised: place -> range of step sizes, drawn behind its line
    """
    advised = {place: span for place, span in (advised or {}).items() if span[0] > 0}
    shown = {key: advised[key] for key in (curve.place for curve in curves) if key in advised}
    look = {name: one.colour for name, one in style.looks([c.place for c in curves]).items()}
    key = style.legend(look, "stroke")
    if key is not None:
        key.symbolOpacity = 1.0  # and not that of the bands
    colour = style.scaled(alt.Color, "at", look, key)
    steps = [point.step for curve in curves for point in curve.points]
    steps += [step for span in shown.values() for step in span]
    x = style.number(alt.X, STEP, **style.log_axis(steps))
    y = style.number(alt.Y, figure.title, **_scale(curves, figure))
    base = alt.Chart(style.table(_columns(curves, figure))).encode(x=x, color=colour)
    low = style.number(alt.Y, "low", title=figure.title)
    band = base.mark_area(opacity=0.18, clip=True).encode(y=low, y2=alt.Y2(field="high"))
    line = base.mark_line(strokeWidth=1.6, clip=True).encode(y=y)
    is_crowded = max((len(curve.points) for curve in curves), default=0) > MANY
    small, largest = SMALL if is_crowded else 1.0, max(SIZES.values())
    sizes = {str(r): size * (1 if size == largest else small) for r, size in SIZES.items()}
    tooltip = style.tips({"at": "", STEP: "~g", figure.title: figure.number})
    tooltip += style.tips({"low": figure.number, "high": figure.number, "seeds": "d", "mark": ""})
    dots = base.mark_point(filled=True, opacity=1, cursor="pointer").encode(
        y=y,
        shape=style.scaled(alt.Shape, "mark", {str(r): shape for r, shape in SHAPES.items()}, None),
        size=style.scaled(alt.Size, "mark", sizes, None),
        tooltip=tooltip,
    )
    dots = dots.add_params(style.opener())
    layers = [*_advised(shown, colour), *_floor(figure), band, line.add_params(style.zoom()), dots]
    return style.layered(*layers, description=_description(curves, figure, shown), height=height)


def _columns(curves: Sequence[StepCurve], figure: StepFigure) -> dict[str, Any]:
    """One row per point, those that are marked last, so that they are drawn on top."""
    rows = [(curve.place, point) for curve in curves for point in curve.points]
    rows.sort(key=lambda row: SIZES[row[1].role])
    return {
        "at": [place for place, _ in rows],
        STEP: [point.step for _, point in rows],
        figure.title: [point.mean for _, point in rows],
        "low": [_or(point.low, point.mean) for _, point in rows],
        "high": [_or(point.high, point.mean) for _, point in rows],
        "seeds": [point.seeds for _, point in rows],
        "mark": [point.role for _, point in rows],
        "digest": [point.digest for _, point in rows],
    }


def _scale(curves: Sequence[StepCurve], figure: StepFigure) -> dict[str, Any]:
    ends = [end for c in curves for p in c.points for end in (p.mean, p.low, p.high)]
    if figure.is_log and style.spans([*ends, figure.floor], LOG_SPAN):
        return style.log_axis([*ends, figure.floor])
    return {"scale": alt.Scale(zero=False, padding=8)}


def _advised(shown: Mapping[str, tuple[float, float]], colour: Any) -> list[alt.Chart]:
    """A range over the whole height; a rule where both of its ends are the same."""
    if not shown:
        return []
    columns = {
        "at": list(shown),
        STEP: [low for low, _ in shown.values()],
        "to": [high for _, high in shown.values()],
    }
    base = alt.Chart(style.table(columns)).encode(
        x=style.number(alt.X, STEP),
        color=colour,
        tooltip=style.tips({"at": "", STEP: ".2~g", "to": ".2~g"}),
    )
    edges = base.mark_rule(strokeDash=list(style.DOTTED), strokeWidth=1.6, clip=True)
    return [base.mark_rect(opacity=0.15, clip=True).encode(x2=alt.X2(field="to")), edges]


def _floor(figure: StepFigure) -> list[alt.Chart]:
    if math.isnan(figure.floor):
        return []
    base = alt.Chart(style.table({figure.title: [figure.floor]}))
    rule = base.mark_rule(color=style.RED, strokeDash=list(style.DASHED))
    return [rule.encode(y=style.number(alt.Y, figure.title))]


def _description(
    curves: Sequence[StepCurve], figure: StepFigure, shown: Mapping[str, tuple[float, float]]
) -> str:
    parts = []
    for curve in curves:
        least = min(curve.points, key=lambda point: point.mean)
        text = f"{curve.place}: lowest {least.mean:.3g} at {least.step:g}"
        marked = ", ".join(f"{p.step:g} {p.role}" for p in curve.points if p.role != "other")
        text += f" ({marked})" if marked else ""
        if span := shown.get(curve.place):
            text += f", theory advises {' to '.join(dict.fromkeys(f'{s:.2g}' for s in span))}"
        parts.append(text)
    rule = curves[0].rule if curves else "no rule"
    return f"{figure.title} of {rule} against its step size. {'; '.join(parts)}."


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value
