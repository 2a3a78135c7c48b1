"""Charts of a sweep's parameters: their importance, and parallel coordinates.

`parallel_coordinates` uses Apache ECharts, because Vega has no brush on parallel axes.

Letters: T trials.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import pyarrow as pa

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart, Theme

LOG_SPAN = 20.0  # axes with a larger ratio of values are logarithmic
PARALLEL_PIXELS = 480
SHARE = "share of the variance explained, %"


class ParallelAxis(NamedTuple):
    title: str
    value_T: Sequence[float | str | None]  # None: the trial has no value
    levels: Sequence[str] | None = None  # names in order; None: an axis of numbers


def parallel_coordinates(
    axes: Sequence[ParallelAxis],
    group_T: Sequence[str],
    name_T: Sequence[str],
    faded_T: Sequence[bool],
    theme: Theme = "light",
) -> dict[str, Any]:
    """One line per trial over all axes, coloured by group; trials that ended early are faded.

    Dragging along axes selects the trials that pass through all marked ranges.

    Returns:  the option of ECharts, for `st.echarts_chart`
    """
    look = style.looks(list(dict.fromkeys(group_T)))
    lines: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for trial, (group, name, is_faded) in enumerate(zip(group_T, name_T, faded_T, strict=True)):
        value = ["-" if (v := axis.value_T[trial]) is None else v for axis in axes]
        lines.setdefault((group, is_faded), []).append({"name": name, "value": value})
    option = {
        "animation": False,
        "legend": {
            "data": list(look),
            "type": "scroll",
            "top": 0,
            "textStyle": {"color": style.MUTED},
        },
        "tooltip": {"trigger": "item", "formatter": "{b}"},
        "parallel": {"left": 46, "right": 70, "top": 66, "bottom": 20},
        "parallelAxis": [_axis(place, axis) for place, axis in enumerate(axes)],
        "series": [
            {
                "type": "parallel",
                "name": group,
                "data": rows,
                "smooth": False,
                "inactiveOpacity": 0.04,
                "activeOpacity": 1,
                "color": look[group].colour,
                "lineStyle": {
                    "color": look[group].colour,
                    "width": 1.1 if is_faded else 1.6,
                    "type": "dotted" if is_faded else "solid",
                    "opacity": 0.35 if is_faded else 0.75,
                },
            }
            for (group, is_faded), rows in lines.items()
        ],
    }
    upright = {"layout": "vertical", "left": 14, "right": 92, "top": 50, "bottom": 30}
    narrow = {"query": {"maxWidth": 600}, "option": {"parallel": upright}}
    return dict(style.exchanged({"baseOption": option, "media": [narrow]}, theme))


def parallel_description(axes: Sequence[ParallelAxis], trials: int) -> str:
    titles = ", ".join(axis.title for axis in axes)
    return f"Parallel coordinates of {trials} trials over {titles}."


def parallel_table(
    axes: Sequence[ParallelAxis], group_T: Sequence[str], name_T: Sequence[str]
) -> pa.Table:
    """One row per trial with its value on every axis."""
    columns: dict[str, Any] = {"trial": list(name_T), "rule": list(group_T)}
    return pa.table(columns | {axis.title: pa.array(axis.value_T) for axis in axes})


def importance_bars(share: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> Chart:
    """Bars by parameter, the most important first.

    Args:     share: figure -> parameter -> share of the figure's variance
    """
    keys = sorted(
        {key for shares in share.values() for key in shares},
        key=lambda key: -max(_or_zero(shares[key]) for shares in share.values()),
    )
    rows = [(key, figure) for key in keys for figure in share]
    columns = {
        "parameter": [key for key, _ in rows],
        "figure": [titles[figure] for _, figure in rows],
        SHARE: [100 * share[figure][key] for key, figure in rows],
    }
    colours = dict(zip([titles[figure] for figure in share], style.CATEGORIES, strict=False))
    span = {"scale": alt.Scale(domain=[0, 100]), "axis": alt.Axis(grid=True)}
    bars = alt.Chart(style.table(columns)).mark_bar().encode(
        x=style.number(alt.X, SHARE, **span),
        y=style.name(alt.Y, "parameter", sort=keys, title=None),
        yOffset=style.name(alt.YOffset, "figure", sort=list(colours)),
        color=style.scaled(alt.Color, "figure", colours, style.legend(colours, "square")),
        tooltip=style.tips({"parameter": "", "figure": "", SHARE: ".0f"}),
    )  # fmt: skip
    height = max(240, 120 + 22 * len(rows))
    return style.layered(bars, description=_importance_description(share, titles), height=height)


def _axis(place: int, axis: ParallelAxis) -> dict[str, Any]:
    numbers = [float(v) for v in axis.value_T if isinstance(v, int | float) and math.isfinite(v)]
    common = {
        "dim": place,
        "name": axis.title,
        "nameTextStyle": {"width": 90, "overflow": "break", "lineHeight": 13, "color": style.MUTED},
        "axisLine": {"lineStyle": {"color": style.MUTED}},
        "axisLabel": {"backgroundColor": style.GROUND, "color": style.INK, "padding": [1, 3]},
        "z": 10,  # labels above the lines
        "areaSelectStyle": {"color": style.ORANGE, "opacity": 0.3},
    }
    if axis.levels is not None:
        return common | {"type": "category", "data": list(axis.levels)}
    is_log = bool(numbers) and min(numbers) > 0 and style.spans(numbers, LOG_SPAN)
    return common | {"type": "log" if is_log else "value", "scale": True}


def _importance_description(
    share: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]
) -> str:
    parts = []
    for name, shares in share.items():
        key = max(shares, key=lambda key: _or_zero(shares[key]), default=None)
        if key is not None and shares[key] > 0:
            parts.append(f"{titles[name]}: {key} explains {100 * shares[key]:.0f} %")
    return f"Importance of parameters. {'; '.join(parts) or 'It is not known yet'}."


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
