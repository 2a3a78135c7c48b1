"""Parameters of a sweep against its figures: parallel coordinates, and how much each one matters.

Shape suffixes: T trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.style import CATEGORIES, LIGHT, figure
from evenload.dashboard.sweep.importance import ABSENT, Parameter

LOG_SPAN = 20.0  # numbers over a wider span lie on a logarithmic axis
MAX_TICKS = 7


class Axis(NamedTuple):
    """One upright axis: where each trial meets it, 0 to 1, NaN where it does not."""

    title: str
    place_T: NDArray[np.float64]
    ticks: list[tuple[float, str]]


def parameter_axis(parameter: Parameter) -> Axis:
    """Levels evenly spread; numbers of many levels by their size."""
    levels = parameter.levels
    title = parameter.name
    if parameter.is_number and len(levels) > MAX_TICKS:
        return number_axis(
            title, np.array([math.nan if v == ABSENT else float(v) for v in parameter.values])
        )
    spread = {level: place / (len(levels) - 1) for place, level in enumerate(levels)}
    place_T = np.array([spread[value] for value in parameter.values])
    return Axis(title, place_T, [(place, _text(level)) for level, place in spread.items()])


def number_axis(title: str, value_T: NDArray[np.float64]) -> Axis:
    """A linear axis; a logarithmic one where all are positive and span far."""
    finite = value_T[np.isfinite(value_T)]
    if not finite.size:
        return Axis(title, value_T, [])
    low, high = float(finite.min()), float(finite.max())
    is_log = low > 0 and high / low > LOG_SPAN
    scaled_T, ends = (np.log(value_T), np.log([low, high])) if is_log else (value_T, [low, high])
    span = float(ends[1] - ends[0]) or 1.0
    middle = math.sqrt(low * high) if is_log else (low + high) / 2
    ticks = [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if high > low else [(0.0, f"{low:.3g}")]
    if high > low:
        ticks.insert(1, (0.5, f"{middle:.3g}"))
    return Axis(title, (scaled_T - ends[0]) / span, ticks)


def parallel_coordinates(
    axes: Sequence[Axis], group_T: Sequence[str], name_T: Sequence[str], faded_T: Sequence[bool]
) -> go.Figure:
    """A line a trial over all axes, coloured by its group; faded where the trial was cut short.

    A click on a group in the legend hides it, two clicks leave it alone.
    """
    groups = list(dict.fromkeys(group_T))
    colours = dict(zip(groups, _cycled(len(groups)), strict=True))
    lines = []
    for group in groups:
        for faded in (False, True):
            members = [
                trial
                for trial, (own, is_faded) in enumerate(zip(group_T, faded_T, strict=True))
                if own == group and is_faded == faded
            ]
            if members:
                lines.append(_bundle(axes, members, group, name_T, colours[group], faded))
    named: set[str] = set()
    for line in lines:
        line.showlegend = line.legendgroup not in named
        named.add(line.legendgroup)
    chart = figure(
        *lines,
        height=460,
        says=f"Parallel coordinates of {len(group_T)} trials over "
        + ", ".join(axis.title for axis in axes)
        + ".",
    )
    _draw_axes(chart, axes)
    return chart


def importance_bars(
    share: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]
) -> go.Figure:
    """Figure -> key -> share of its variance: bars by parameter, the most important one on top."""
    keys = sorted(
        {key for shares in share.values() for key in shares},
        key=lambda key: -max(_or_zero(shares[key]) for shares in share.values()),
    )
    bars = [
        go.Bar(
            y=keys,
            x=[100 * shares[key] for key in keys],
            orientation="h",
            name=titles[name],
            marker={"color": CATEGORIES[place % len(CATEGORIES)], "line": {"width": 0}},
            hovertemplate="%{y}: <b>%{x:.0f} %</b> of the variance<extra>%{fullData.name}</extra>",
        )
        for place, (name, shares) in enumerate(share.items())
    ]
    chart = figure(
        *bars,
        height=max(240, 120 + 22 * len(keys) * max(1, len(share))),
        says=_says_importance(share, titles),
        x="share of the variance explained, %",
    )
    chart.update_layout(barmode="group", bargap=0.25)
    chart.update_xaxes(range=[0, 100])
    chart.update_yaxes(type="category", autorange="reversed", automargin=True, showgrid=False)
    return chart


def _bundle(
    axes: Sequence[Axis],
    members: Sequence[int],
    group: str,
    name_T: Sequence[str],
    colour: str,
    faded: bool,
) -> go.Scatter:
    """The lines of some trials as one trace, parted by gaps."""
    gap = np.nan
    place_TA = np.array([[*(axis.place_T[trial] for axis in axes), gap] for trial in members])
    x_A = np.array([*range(len(axes)), gap])
    return go.Scatter(
        x=np.tile(x_A, len(members)).astype(np.float32),
        y=place_TA.ravel().astype(np.float32),
        text=np.repeat([name_T[trial] for trial in members], len(axes) + 1).tolist(),
        mode="lines",
        name=group,
        legendgroup=group,
        line={"color": colour, "width": 1.1 if faded else 1.6, "dash": "dot" if faded else "solid"},
        opacity=0.35 if faded else 0.8,
        hovertemplate="%{text}<extra></extra>",
        connectgaps=False,
    )


def _draw_axes(chart: go.Figure, axes: Sequence[Axis]) -> None:
    chart.update_layout(
        hovermode="closest",
        margin={"l": 40, "r": 40, "t": 8, "b": 44},
        legend={"y": 1.1, "yanchor": "bottom"},
    )
    chart.update_xaxes(
        tickvals=list(range(len(axes))),
        ticktext=[axis.title for axis in axes],
        range=[-0.15, len(axes) - 0.65],
        showgrid=False,
        tickfont={"size": 13, "color": LIGHT.ink},
        fixedrange=True,
    )
    chart.update_yaxes(visible=False, range=[-0.04, 1.04], fixedrange=True)
    # At once: plotly checks everything again for each one that is added.
    chart.update_layout(
        shapes=[
            {
                "type": "line",
                "x0": place,
                "x1": place,
                "y0": 0,
                "y1": 1,
                "line": {"color": LIGHT.muted, "width": 1},
            }
            for place in range(len(axes))
        ],
        annotations=[
            {
                "x": place,
                "y": height,
                "text": text,
                "showarrow": False,
                "xanchor": "left",
                "xshift": 5,
                "font": {"size": 11, "color": LIGHT.muted},
                "bgcolor": LIGHT.ground,
                "opacity": 0.9,
            }
            for place, axis in enumerate(axes)
            for height, text in axis.ticks
        ],
    )


def _says_importance(share: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> str:
    told = []
    for name, shares in share.items():
        key = max(shares, key=lambda key: _or_zero(shares[key]), default=None)
        if key is not None and shares[key] > 0:
            told.append(f"{titles[name]}: {key} explains {100 * shares[key]:.0f} %")
    return "Importance of parameters. " + ("; ".join(told) or "Nothing can be told yet") + "."


def _or_zero(value: float) -> float:
    return value if value == value else 0.0


def _cycled(number: int) -> list[str]:
    return [CATEGORIES[place % len(CATEGORIES)] for place in range(number)]


def _text(level: Any) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)
