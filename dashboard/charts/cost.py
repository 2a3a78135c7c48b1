"""What imbalance costs: step time that waits for the fullest rank, by setting and by ranks."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from evenload.dashboard.charts.line_styles import looks
from evenload.dashboard.charts.style import DASHES, LIGHT, figure
from evenload.dashboard.cost.tables import Loss

MAX_BARS = 40  # settings in one chart; of more the cheapest and the dearest


def lost_by_ranks(found: Sequence[Loss], sizes: Sequence[int], chosen: int) -> go.Figure:
    """Share of a step's time that waits against the expert-parallel size.

    A colour a setting, a dash an expert count; the legend names the settings.
    """
    look = looks(list(dict.fromkeys(loss.label for loss in found)))
    counts = sorted({loss.experts for loss in found})
    lines = [
        go.Scatter(
            x=[str(size) for size in sizes if size in loss.share_R],
            y=[100 * loss.share_R[size] for size in sizes if size in loss.share_R],
            mode="lines+markers",
            name=loss.label,
            legendgroup=loss.label,
            line={
                "color": look[loss.label].colour,
                "dash": DASHES[counts.index(loss.experts) % len(DASHES)],
                "width": 2,
            },
            hovertemplate=f"<b>%{{y:.1f}} %</b><extra>{_name(loss)}</extra>",
        )
        for loss in found
    ]
    chart = figure(
        *lines,
        height=420,
        says=_says(found, chosen),
        x="expert-parallel size, ranks",
        y="step time that waits, %",
    )
    named: set[str] = set()
    for line in chart.data:
        line.showlegend = line.name not in named
        named.add(line.name)
    chart.update_xaxes(type="category", categoryorder="array", categoryarray=[*map(str, sizes)])
    chart.update_yaxes(rangemode="tozero")
    chart.update_layout(hovermode="closest")
    return chart


def lost_by_setting(found: Sequence[Loss], ranks: int) -> go.Figure:
    """The same at one size, a bar a setting, least first; whiskers from least to largest trial."""
    shown = sorted(
        (loss for loss in found if ranks in loss.share_R), key=lambda one: one.share_R[ranks]
    )
    if len(shown) > MAX_BARS:
        shown = [*shown[: MAX_BARS // 2], *shown[-MAX_BARS // 2 :]]
    share = [100 * loss.share_R[ranks] for loss in shown]
    bars = go.Bar(
        y=[_name(loss) for loss in shown],
        x=share,
        orientation="h",
        marker={"color": LIGHT.orange, "line": {"width": 0}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (loss.high_R[ranks] - loss.share_R[ranks]) for loss in shown],
            "arrayminus": [100 * (loss.share_R[ranks] - loss.low_R[ranks]) for loss in shown],
            "color": LIGHT.muted,
            "thickness": 1.2,
            "width": 3,
            "visible": any(loss.trials > 1 for loss in shown),
        },
        text=[f"{value:.1f} %" for value in share],
        textposition="auto",
        hovertemplate="%{y}: <b>%{x:.1f} %</b><extra></extra>",
        name="step time that waits",
    )
    chart = figure(
        bars, height=max(220, 100 + 26 * len(shown)), says=_says(found, ranks),
        x="step time that waits, %",
    )  # fmt: skip
    chart.update_yaxes(type="category", autorange="reversed", automargin=True, showgrid=False)
    chart.update_xaxes(rangemode="tozero")
    chart.update_layout(bargap=0.3)
    return chart


def _name(loss: Loss) -> str:
    return f"{loss.label}, {loss.experts} experts"


def _says(found: Sequence[Loss], ranks: int) -> str:
    shares = {_name(one): 100 * one.share_R[ranks] for one in found if ranks in one.share_R}
    if not shares:
        return f"Step time that waits at {ranks} ranks. No setting has recorded loads."
    low, high = min(shares, key=lambda n: shares[n]), max(shares, key=lambda n: shares[n])
    return (
        f"Step time that waits for the fullest of {ranks} ranks: from {shares[low]:.1f} % with "
        f"{low} to {shares[high]:.1f} % with {high}."
    )
