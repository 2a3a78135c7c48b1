"""What experts do: which text they take, and which of them a token meets together.

Shape suffixes: G groups of text, L expert layers, E experts, N values of k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from evenload.dashboard.charts.loads import load_heatmap
from evenload.dashboard.charts.style import LIGHT, colorbar, figure

CLIP_PERCENT = 300  # lifts above three times chance are drawn alike
# Below chance blue, above orange; chance itself is the colour of a fair load.
LIFT_SCALE = [
    [0.0, LIGHT.lowest],
    [0.2, LIGHT.low],
    [100 / CLIP_PERCENT, LIGHT.fair],
    [0.6, LIGHT.high],
    [1.0, LIGHT.highest],
]


def load_by_group(percent_GE: NDArray[np.int16], group_names: Sequence[str]) -> go.Figure:
    """Groups of text down, experts of one layer across, load in percent of the fair share."""
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in group_names]
    most, group = _peak(percent_GE)
    chart = figure(
        load_heatmap(percent_GE, y=names, hover="%{y}, expert %{x}", gap=1),
        height=max(240, 100 + 24 * len(names)),
        says=f"Load of {percent_GE.shape[-1]} experts on {len(names)} groups of text. "
        f"The largest is {most} % of the fair share, on {group_names[group]}.",
        x=f"expert (0 to {percent_GE.shape[-1] - 1})",
    )
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return chart


def specialisation_by_layer(value_L: NDArray[np.float32], names: Sequence[str]) -> go.Figure:
    """A bar a layer, from 0: every expert takes every group alike, to 1."""
    chart = figure(
        go.Bar(
            x=list(names),
            y=value_L,
            marker={"color": LIGHT.blue},
            hovertemplate="layer %{x}: <b>%{y:.3f}</b><extra></extra>",
        ),
        height=300,
        says=f"Specialisation of {len(names)} layers, "
        f"{np.min(value_L):.3f} to {np.max(value_L):.3f} of at most 1.",
        x="layer",
        y="specialisation, 0 to 1",
    )
    chart.update_xaxes(type="category")
    chart.update_yaxes(rangemode="tozero")
    return chart


def lift_map(percent_EE: NDArray[np.int16], of: str, across: str) -> go.Figure:
    """Experts down and across: how often a token has both, in percent of chance.

    Args:     of, across: titles of the two axes; -1 in the map is a pair that cannot be judged
    """
    unknown = percent_EE < 0
    blank = np.where(unknown, np.nan, percent_EE).astype(np.float32)
    most, _ = _peak(percent_EE)
    chart = figure(
        go.Heatmap(
            z=blank if unknown.any() and percent_EE.size < 20_000 else percent_EE,
            zmin=0,
            zmax=CLIP_PERCENT,
            colorscale=LIFT_SCALE,
            hovertemplate="%{y} with %{x}<br><b>%{z} %</b> of chance<extra></extra>",
            colorbar=colorbar("times chance")
            | {"tickvals": [0, 100, 200, 300], "ticktext": ["never", "1×", "2×", "3× and more"]},
        ),
        height=420,
        says=f"{of} with {across}: at most {most / 100:.1f} times as often as by chance.",
        x=across,
        y=of,
    )
    chart.update_xaxes(showgrid=False)
    chart.update_yaxes(autorange="reversed", showgrid=False)
    return chart


def loss_by_group(bits_G: NDArray[np.float64], group_names: Sequence[str]) -> go.Figure:
    """A bar a group of text, the hardest first."""
    order = np.argsort(-bits_G)
    names = [group_names[index] for index in order]
    return figure(
        go.Bar(
            x=bits_G[order],
            y=[name if len(name) <= 24 else f"{name[:23]}…" for name in names],
            orientation="h",
            marker={"color": LIGHT.blue},
            hovertemplate="%{y}: <b>%{x:.3f}</b> bits per byte<extra></extra>",
        ),
        height=max(300, 90 + 24 * len(names)),
        says=f"Held-out loss of {len(names)} groups of text: hardest {names[0]} with "
        f"{bits_G.max():.3f}, easiest {names[-1]} with {bits_G.min():.3f} bits per byte.",
        x="held-out loss, bits per byte",
    ).update_yaxes(type="category", autorange="reversed")


def loss_by_k(loss_N: NDArray[np.float64], k_N: NDArray[np.int64], trained_k: int) -> go.Figure:
    """Held-out loss against the experts a token gets; the k of training stands out."""
    best = int(loss_N.argmin())
    is_trained = k_N == trained_k
    chart = figure(
        go.Scatter(
            x=k_N,
            y=loss_N,
            mode="lines+markers",
            name="held-out loss",
            line={"color": LIGHT.blue, "width": 2},
            hovertemplate="k = %{x}: <b>%{y:.4f}</b> nats per token<extra></extra>",
        ),
        go.Scatter(
            x=k_N[is_trained],
            y=loss_N[is_trained],
            mode="markers",
            name=f"trained with k = {trained_k}",
            marker={"color": LIGHT.orange, "size": 11, "symbol": "diamond"},
            hoverinfo="skip",
        ),
        height=300,
        says=f"Held-out loss with 1 to {k_N.max()} experts a token: lowest {loss_N[best]:.4f} "
        f"nats per token at k = {k_N[best]}; trained with k = {trained_k}.",
        x="experts a token, k",
        y="held-out loss, nats per token",
    )
    chart.update_layout(hovermode="closest")
    return chart


def _peak(percent: NDArray[np.int16]) -> tuple[int, int]:
    """The largest value of a map and its row."""
    return int(percent.max()), int(np.unravel_index(percent.argmax(), percent.shape)[0])
