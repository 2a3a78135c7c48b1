"""Charts of a sweep's answer: one row per setting, with its interval, place by place.

Letters: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import altair as alt

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart

Role = Literal["named", "most even so far", "tied in evenness", "other", "control"]
ROLES: dict[Role, tuple[str, str]] = {  # colour and shape
    "named": (style.ORANGE, "diamond"),
    "most even so far": (style.ORANGE, "diamond"),
    "tied in evenness": (style.BLUE, "square"),
    "other": (style.FAINT, "circle"),
    "control": (style.MUTED, "triangle-up"),
}
ROW_PIXELS, FRAME_PIXELS = 21, 92
ROW = "row"
IS_HEAD = "split(datum.label, '\\t')[1] == ''"
LABEL = f"{IS_HEAD} ? split(datum.label, '\\t')[0] : split(datum.label, '\\t')[1]"


class Row(NamedTuple):
    """One setting at one place."""

    place: str
    label: str
    role: Role
    value: float
    half: float = math.nan  # of its 95 % interval; NaN: unknown
    zone: tuple[float, float] = (math.nan, math.nan)  # from the least value to it plus the margin
    floor: float = math.nan  # the value by chance
    digest: str = ""  # of the run that a click opens


def interval_rows(
    rows: Sequence[Row], title: str, *, number: str = ".3f", is_log: bool = False
) -> Chart:
    """Dots with 95 % intervals, settings below each other. The name of a place heads its rows.

    Shaded: the margin. Red: the value by chance.

    Args:     rows: by place
              title: of the values, with their unit
    """
    order = [
        key
        for place, found in groupby(rows, lambda row: row.place)
        for key in (f"{place}\t", *(f"{place}\t{row.label}" for row in found))
    ]
    columns: dict[str, Sequence[Any]] = {
        ROW: [f"{row.place}\t{row.label}" for row in rows],
        "at": [row.place for row in rows],
        "setting": [row.label for row in rows],
        "role": [row.role for row in rows],
        title: [row.value for row in rows],
        "low": [_end(row, -1, is_log) for row in rows],
        "high": [_end(row, 1, is_log) for row in rows],
        "margin from": [row.zone[0] for row in rows],
        "margin to": [row.zone[1] for row in rows],
        "by chance": [row.floor for row in rows],
        "digest": [row.digest for row in rows],
    }
    ends = [v for name in (title, "low", "high", "by chance") for v in columns[name]]
    linear = {"scale": alt.Scale(zero=False, nice=False, padding=10)}
    more = style.log_axis(ends) if is_log and style.spans(ends, 3.0) else linear
    weight = {"condition": {"test": IS_HEAD, "value": "bold"}, "value": "normal"}
    heads = alt.Axis(
        labelExpr=LABEL, labelFontWeight=weight, labelOverlap=False, domain=False, grid=False
    )
    y = style.name(alt.Y, ROW, sort=None, title=None, scale=alt.Scale(domain=order), axis=heads)
    base = alt.Chart(style.table(columns)).encode(y=y)
    roles = [role for role in ROLES if role in columns["role"]]
    colours, shapes = ({str(role): ROLES[role][part] for role in roles} for part in (0, 1))
    across = alt.RelativeBandSize(band=1)
    shown = {"at": "", "setting": "", "role": "", title: number, "low": number, "high": number}
    low = style.number(alt.X, "low", title=title, **more)
    layers = [
        base.mark_bar(color=style.GREEN, opacity=0.14, height=across).encode(
            x=style.number(alt.X, "margin from", title=title), x2=alt.X2(field="margin to")
        ),
        base.mark_tick(color=style.RED, thickness=2, height=across).encode(
            x=style.number(alt.X, "by chance", title=title)
        ),
        base.mark_rule(color=style.MUTED, strokeWidth=1.4).encode(
            x=low, x2=alt.X2(field="high")
        ),
        base.mark_point(filled=True, opacity=1, size=95, cursor="pointer")
        .encode(
            x=style.number(alt.X, title, **more),
            color=style.scaled(alt.Color, "role", colours, style.legend(roles)),
            shape=style.scaled(alt.Shape, "role", shapes, style.legend(roles)),
            tooltip=style.tips(shown | {"by chance": number}),
        )
        .add_params(style.opener()),
    ]  # fmt: skip
    height = FRAME_PIXELS + ROW_PIXELS * len(order)
    return style.layered(*layers, description=_description(rows, title), height=height)


def _end(row: Row, sign: int, is_log: bool) -> float:
    """One end of the interval; a logarithmic axis cannot show one that is not above zero."""
    half = 0.0 if math.isnan(row.half) else row.half
    return max(row.value + sign * half, row.value / 3) if is_log else row.value + sign * half


def _description(rows: Sequence[Row], title: str) -> str:
    parts = [
        f"{row.place}: {row.label} ({row.role}) {row.value:.3g}"
        for row in rows
        if row.role != "other"
    ]
    return f"{title} of {len(rows)} settings. {'; '.join(parts)}."
