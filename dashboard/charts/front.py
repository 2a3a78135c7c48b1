"""Settings of a sweep against each other: the Pareto front, and what a confirmation made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go

from evenload.dashboard.charts.log_axis import make_logarithmic, spans
from evenload.dashboard.charts.style import LIGHT, figure
from evenload.pipeline.sweep.setting import Setting
from evenload.pipeline.sweep.statistics import Interval

MAX_LABELS = 14  # names beside points; of more, the front's alone
Figure = Literal["loss", "imbalance"]
TITLES: dict[Figure, str] = {"loss": "validation loss, bits per byte", "imbalance": "MaxVio"}


class Pair(NamedTuple):
    """One setting as the search found it and as fresh seeds confirmed it."""

    label: str
    tuned: Interval
    confirmed: Interval


def pareto_front(
    settings: Sequence[Setting], best: str | None, searched: Sequence[Setting] = ()
) -> go.Figure:
    """Loss against imbalance, a point a setting, 95 % intervals over seeds; both better low.

    The picture ends around the settings that may be recommended: a control that lies far away
    would squeeze them. A double click shows all. Line: the front, where less of the one costs
    more of the other. Orange diamond: the recommended setting. Hollow: controls, and rules that
    see later tokens. Faint: what the search saw, where `settings` are what fresh seeds confirmed.
    """
    rivals = [s for s in settings if not s.is_yardstick and s.label != best]
    yardsticks = [s for s in settings if s.is_yardstick]
    chosen = [s for s in settings if s.label == best]
    front = sorted(
        (s for s in searched or settings if s.on_front), key=lambda setting: setting.max_vio
    )
    traces = [_stairs(front, [*settings, *searched])]
    for group, name, colour, symbol in (
        (searched, "search", LIGHT.faint, "circle"),
        (rivals, "fresh seeds" if searched else "settings", LIGHT.blue, "circle"),
        (yardsticks, "controls", LIGHT.muted, "circle-open"),
        (chosen, "recommended", LIGHT.orange, "diamond"),
    ):
        if group:
            confirmed = {setting.label for setting in settings} if group is searched else set()
            names = [_name(s, len(settings)) if s.label not in confirmed else "" for s in group]
            traces.append(_points(group, names, name, colour, symbol))
    chart = figure(
        *traces,
        height=480,
        says=_says(settings, front, best),
        x="MaxVio, steady (max load / fair share − 1)",
        y="validation loss, bits per byte",
    )
    chart.update_layout(hovermode="closest")
    everything = [*settings, *searched]
    near = [*rivals, *chosen, *(s for s in searched if not s.is_yardstick)]
    is_log = spans([s.max_vio for s in near or everything])
    if is_log:
        make_logarithmic(chart, "x", [s.max_vio for s in everything])
    if len(near) > 1:
        chart.update_xaxes(range=_around([s.max_vio for s in near], is_log))
        chart.update_yaxes(range=_around([s.bits_per_byte for s in near], is_log=False))
    return chart


def tune_against_confirm(pairs: Sequence[Pair], shown: Figure) -> go.Figure:
    """Each setting's figure in the search and with fresh seeds, with their intervals.

    The best of many tries looks better than it is; the confirmed figure is the one to report.
    """
    labels = [pair.label for pair in pairs]
    joined = go.Scatter(
        x=[v for pair in pairs for v in (pair.tuned.mean, pair.confirmed.mean, None)],
        y=[v for pair in pairs for v in (pair.label, pair.label, None)],
        mode="lines",
        line={"color": LIGHT.rule, "width": 6},
        showlegend=False,
        hoverinfo="skip",
        name="",
    )
    dots = [
        go.Scatter(
            x=[found.mean for found in intervals],
            y=labels,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 10, "symbol": symbol},
            error_x=_error([found.half for found in intervals], colour),
            customdata=[found.seeds for found in intervals],
            hovertemplate=f"%{{y}}<br>{name}: <b>%{{x:.4f}}</b>, %{{customdata}} seeds"
            "<extra></extra>",
        )
        for intervals, name, colour, symbol in (
            ([pair.tuned for pair in pairs], "search", LIGHT.blue, "circle-open"),
            ([pair.confirmed for pair in pairs], "fresh seeds", LIGHT.orange, "diamond"),
        )
    ]
    told = "; ".join(f"{p.label}: {p.tuned.mean:.3f}, then {p.confirmed.mean:.3f}" for p in pairs)
    chart = figure(
        joined,
        *dots,
        height=max(220, 130 + 36 * len(pairs)),
        says=f"{TITLES[shown]} in the search and with fresh seeds. {told}.",
        x=TITLES[shown],
    )
    chart.update_layout(hovermode="closest")
    chart.update_yaxes(type="category", autorange="reversed", automargin=True)
    means = [found.mean for pair in pairs for found in (pair.tuned, pair.confirmed)]
    if spans(means):
        make_logarithmic(chart, "x", means)
    return chart


def _around(values: Sequence[float], is_log: bool) -> list[float]:
    """From the least to the largest with some room; in powers of ten where the axis is."""
    ends = [math.log10(value) if is_log else value for value in (min(values), max(values))]
    room = 0.15 * (ends[1] - ends[0]) or 0.05 * abs(ends[0]) or 1.0
    return [ends[0] - room, ends[1] + room]


def _name(setting: Setting, number: int) -> str:
    """Beside its point; of very many settings those on the front alone."""
    return setting.label if number <= MAX_LABELS or setting.on_front else ""


def _points(
    group: Sequence[Setting], names: Sequence[str], title: str, colour: str, symbol: str
) -> go.Scatter:
    return go.Scatter(
        x=[setting.max_vio for setting in group],
        y=[setting.bits_per_byte for setting in group],
        error_x=_error([setting.imbalance.half for setting in group], colour),
        error_y=_error([setting.loss.half for setting in group], colour),
        mode="markers+text",
        name=title,
        text=names,
        textposition="top right",
        textfont={"size": 11, "color": LIGHT.muted},
        customdata=[
            [
                s.label,
                100 * s.figures["idle_frac"],
                100 * s.figures["effective_util"],
                s.figures["max_vio_floor"],
                s.trials,
            ]
            for s in group
        ],
        marker={
            "color": colour,
            "symbol": symbol,
            "size": 14 if symbol == "diamond" else 10,
            "line": {"width": 2 if symbol.endswith("open") else 0, "color": colour},
        },
        hovertemplate="<b>%{customdata[0]}</b><br>%{y:.4f} bits per byte<br>MaxVio %{x:.3f} "
        "(floor %{customdata[3]:.3f})<br>idle %{customdata[1]:.1f} %, utilisation "
        "%{customdata[2]:.0f} %<br>%{customdata[4]} trials<extra></extra>",
    )


def _stairs(front: Sequence[Setting], settings: Sequence[Setting]) -> go.Scatter:
    """The border of what is dominated, out to the worst of all settings."""
    worst_vio = max((setting.max_vio for setting in settings), default=0.0)
    worst_bits = max((setting.bits_per_byte for setting in settings), default=0.0)
    corners = [(s.max_vio, s.bits_per_byte) for s in front]
    if corners:
        corners = [(corners[0][0], worst_bits), *corners, (worst_vio, corners[-1][1])]
    return go.Scatter(
        x=[vio for vio, _ in corners],
        y=[bits for _, bits in corners],
        mode="lines",
        line={"color": LIGHT.green, "width": 2, "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )


def _error(halves: Sequence[float | None], colour: str) -> dict[str, object]:
    """Error bars; none where one seed tells no spread."""
    array = [np.nan if half is None else half for half in halves]
    return {
        "type": "data",
        "array": array,
        "visible": bool(np.isfinite(array).any()),
        "color": colour,
        "thickness": 1.2,
        "width": 3,
    }


def _says(settings: Sequence[Setting], front: Sequence[Setting], best: str | None) -> str:
    if not settings:
        return "Loss against imbalance. No setting is complete yet."
    named = ", ".join(
        f"{s.label} ({s.bits_per_byte:.3f} bits per byte, MaxVio {s.max_vio:.2f})" for s in front
    )
    chosen = f" Recommended: {best}." if best else ""
    return f"Loss against imbalance of {len(settings)} settings. On the front: {named}.{chosen}"
