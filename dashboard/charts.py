"""Numbers to figures. Pure: arrays and frames in, plotly figures out, no widgets.

Blue is below the fair share, orange above, black is idle: told apart with any colour vision, and
in print. Lines take the Okabe-Ito colours; layers the cividis scale from first to last.

Shape suffixes: B bins of time, L expert layers, E experts, R settings, C expert counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

from dashboard.frames import Grid

INK, MUTED, RULE = "#1f2933", "#66727f", "#e3e8ee"
BLUE, ORANGE, GREEN, RED, IDLE = "#2b6cb0", "#d9730d", "#0f8a6d", "#c2410c", "#000000"
BELOW_FAIR, FAIR, ABOVE_FAIR = ("#0b4a8f", "#7fb2e0"), "#f5f5f2", ("#f3b26b", "#b35806")
CLIP_PERCENT = 200  # loads above twice the fair share are drawn alike
MAX_LINES = 64
FONT = '"Source Sans", "Source Sans Pro", "Segoe UI", sans-serif'

# From the smallest busy value (1 %) to twice the fair share; below it is the colour of idle.
LOAD_SCALE = [
    [0.0, IDLE],
    [0.5 / CLIP_PERCENT, IDLE],
    [0.5 / CLIP_PERCENT, BELOW_FAIR[0]],
    [0.3, BELOW_FAIR[1]],
    [0.5, FAIR],
    [0.7, ABOVE_FAIR[0]],
    [1.0, ABOVE_FAIR[1]],
]
GOOD_LOW_SCALE = [[0.0, "#e6f2ee"], [0.5, "#f2d9a6"], [1.0, "#c2571a"]]
GOOD_HIGH_SCALE = [[0.0, "#c2571a"], [0.5, "#f2d9a6"], [1.0, "#e6f2ee"]]


class Metric(NamedTuple):
    """How a figure of the grid is shown."""

    name: str
    title: str
    unit: str
    decimals: int
    best: float | None  # where the colours begin; None: at the best of the sweep
    least_span: float  # they end this far from it or farther: a tiny difference looks tiny
    good_is_low: bool = True


GRID_METRICS = (
    Metric("val_bits_per_byte", "Validation loss", "bits per byte", 3, None, 0.05),
    Metric("max_vio", "MaxVio, steady", "times the fair share", 2, 0.0, 1.0),
    Metric("idle_frac", "Idle experts in a step", "%", 1, 0.0, 5.0),
    Metric("effective_util", "Effective utilisation", "%", 0, 100.0, 50.0, good_is_low=False),
)


def sweep_grid(grid: Grid, metric: Metric) -> go.Figure:
    """Settings down, expert counts across; the number in each cell, or why there is none."""
    text_RC = [
        [
            f"{value:.{metric.decimals}f}" if np.isfinite(value) else note
            for value, note in zip(values, notes, strict=True)
        ]
        for values, notes in zip(grid.value_RC, grid.note_RC, strict=True)
    ]
    low, high = _colour_range(grid.value_RC, metric)
    heatmap = go.Heatmap(
        z=grid.value_RC,
        x=[f"{experts}" for experts in grid.experts_C],
        y=grid.setting_R,
        zmin=low,
        zmax=high,
        text=text_RC,
        texttemplate="%{text}",
        textfont={"size": 13},
        colorscale=GOOD_LOW_SCALE if metric.good_is_low else GOOD_HIGH_SCALE,
        xgap=2,
        ygap=2,
        hoverongaps=False,
        hovertemplate=f"%{{y}}<br>%{{x}} experts<br><b>%{{z:.{metric.decimals + 1}f}}</b> "
        f"{metric.unit}<extra></extra>",
        colorbar=_colorbar(metric.unit),
    )
    chart = _figure(heatmap, height=max(220, 90 + 34 * len(grid.setting_R)))
    chart.update_layout(plot_bgcolor="#f4f6f9")  # cells that have no number yet
    chart.update_xaxes(title_text="experts per layer", type="category", showgrid=False)
    chart.update_yaxes(type="category", autorange="reversed", showgrid=False, automargin=True)
    return chart


def load_by_layer(
    percent_LE: NDArray[np.int16], layer_names: Sequence[str], is_sorted: bool = False
) -> go.Figure:
    """Layers down, experts across, load in percent of the fair share."""
    rank = "busiest first" if is_sorted else "expert"
    shown_LE = -np.sort(-percent_LE, axis=-1) if is_sorted else percent_LE
    chart = _figure(
        _load_heatmap(shown_LE, y=list(layer_names), hover="layer %{y}, expert %{x}", gap=1),
        height=max(240, 100 + 26 * len(layer_names)),
    )
    chart.update_xaxes(title_text=f"{rank} (0 to {percent_LE.shape[-1] - 1})", showgrid=False)
    chart.update_yaxes(title_text="layer", type="category", autorange="reversed", showgrid=False)
    return chart


def load_over_time(percent_BE: NDArray[np.int16], step_B: NDArray[np.int32]) -> go.Figure:
    """Experts down, time across, the largest load of each bin."""
    chart = _figure(
        _load_heatmap(percent_BE.T, x=step_B, hover="step %{x}, expert %{y}"), height=420
    )
    chart.update_xaxes(title_text="optimizer step", showgrid=False)
    chart.update_yaxes(title_text="expert", autorange="reversed", showgrid=False)
    return chart


def idle_over_time(
    idle_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    layer_names: Sequence[str],
    expected: float,
) -> go.Figure:
    """Share of idle experts by layer; `expected` is what uniform random routing would leave."""
    chart = _layer_lines(100 * idle_BL, step_B, layer_names, "%{y:.1f} %")
    text = f"by chance {100 * expected:.2f} %" if expected > 5e-5 else "by chance none"
    _add_level(chart, step_B, 100 * expected, text)
    chart.update_yaxes(title_text="idle experts, %", rangemode="tozero", minallowed=0)
    return chart


def max_vio_over_time(
    vio_BL: NDArray[np.float32],
    step_B: NDArray[np.int32],
    layer_names: Sequence[str],
    floor: float,
) -> go.Figure:
    """MaxVio by layer beside the value that a fair router shows by chance."""
    chart = _layer_lines(vio_BL, step_B, layer_names, "%{y:.3f}")
    _add_level(chart, step_B, floor, f"sampling floor {floor:.2g}")
    chart.update_yaxes(title_text="MaxVio (max load / fair share − 1)", rangemode="tozero")
    return chart


def bias_paths(bias_BE: NDArray[np.float32], step_B: NDArray[np.int32]) -> go.Figure:
    """Bias of each expert over time; of many experts `MAX_LINES`, evenly spread by final rank."""
    order_E = np.argsort(bias_BE[-1]) if len(bias_BE) else np.arange(bias_BE.shape[-1])
    ranks = np.unique(np.linspace(0, len(order_E) - 1, min(MAX_LINES, len(order_E))).astype(int))
    colours = sample_colorscale(
        [[0, BELOW_FAIR[0]], [0.5, "#b9bec4"], [1, ABOVE_FAIR[1]]], np.linspace(0, 1, len(ranks))
    )
    lines = [
        _line(step_B, bias_BE[:, expert], colour, f"expert {expert}", "%{y:.4f}", width=1.1)
        for expert, colour in zip(order_E[ranks], colours, strict=True)
    ]
    chart = _figure(*lines, height=340)
    chart.update_layout(showlegend=False, hovermode="closest")
    chart.update_xaxes(title_text="optimizer step")
    chart.update_yaxes(title_text="selection bias, score units")
    return chart


def loss_curve(
    loss_B: NDArray[np.float32], loss_max_B: NDArray[np.float32], step_B: NDArray[np.int32]
) -> go.Figure:
    """Mean training loss of each bin with its largest value as a thin line above."""
    chart = _figure(height=300)
    if len(step_B) and not np.array_equal(loss_B, loss_max_B):
        chart.add_trace(_line(step_B, loss_max_B, "#b8cfe6", "largest in bin", "%{y:.3f}", 1))
    chart.add_trace(_line(step_B, loss_B, BLUE, "training loss", "%{y:.3f}", 2))
    chart.update_xaxes(title_text="optimizer step")
    chart.update_yaxes(title_text="loss, nats per token")
    return chart


def throughput_curve(rate_B: NDArray[np.float32], step_B: NDArray[np.int32]) -> go.Figure:
    """Tokens per second of each bin."""
    chart = _figure(_line(step_B, rate_B, GREEN, "throughput", "%{y:,.0f} tokens/s", 2), height=300)
    chart.update_xaxes(title_text="optimizer step")
    chart.update_yaxes(title_text="tokens per second", rangemode="tozero", tickformat="~s")
    return chart


def _load_heatmap(percent: NDArray[np.int16], hover: str, gap: int = 0, **axes: Any) -> go.Heatmap:
    masked = percent.astype(np.float32) if (percent < 0).any() else percent
    return go.Heatmap(
        z=np.where(masked < 0, np.nan, masked) if masked is not percent else percent,
        zmin=0,
        zmax=CLIP_PERCENT,
        colorscale=LOAD_SCALE,
        xgap=gap,
        ygap=gap,
        hovertemplate=hover + "<br><b>%{z} %</b> of the fair share<extra></extra>",
        colorbar=_colorbar("load / fair share")
        | {
            "tickvals": [0, 50, 100, 150, 200],
            "ticktext": ["idle", "0.5×", "1× fair", "1.5×", "2× and more"],
        },
        **axes,
    )


def _layer_lines(
    value_BL: NDArray[np.float32], step_B: NDArray[np.int32], names: Sequence[str], hover: str
) -> go.Figure:
    at = np.linspace(0.0, 0.8, len(names)) if len(names) > 1 else [0.2]
    colours = sample_colorscale("Cividis", at)
    lines = [
        _line(step_B, value_BL[:, index], colour, f"layer {name}", hover, width=1.4)
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]
    chart = _figure(*lines, height=340)
    chart.update_xaxes(title_text="optimizer step")
    return chart


def _line(
    step_B: NDArray[np.int32],
    value_B: NDArray[np.float32],
    colour: str,
    name: str,
    hover: str,
    width: float = 1.5,
) -> go.Scatter:
    """Evenly spaced bins are told by start and distance: 64 lines would repeat 400 steps."""
    spacings = np.unique(np.diff(step_B))
    even = {"x0": step_B[0].item(), "dx": spacings[0].item()} if len(spacings) == 1 else None
    return go.Scatter(
        y=value_B,
        **(even or dict(x=step_B)),
        mode="lines" if len(step_B) > 1 else "markers",
        name=name,
        line={"color": colour, "width": width},
        marker={"color": colour},
        hovertemplate=f"step %{{x}}: <b>{hover}</b><extra>{name}</extra>",
    )


def _add_level(chart: go.Figure, step_B: NDArray[np.int32], level: float, name: str) -> None:
    """A dashed line over the whole time, named in the legend."""
    if len(step_B) and np.isfinite(level):
        chart.add_trace(
            go.Scatter(
                x=[step_B[0].item(), step_B[-1].item()],
                y=[level, level],
                mode="lines",
                name=name,
                line={"color": RED, "width": 1.5, "dash": "dash"},
                hoverinfo="skip",
            )
        )


def _colour_range(value_RC: NDArray[np.float32], metric: Metric) -> tuple[float, float]:
    finite = value_RC[np.isfinite(value_RC)]
    values = finite.tolist() or [0.0 if metric.best is None else metric.best]
    if metric.good_is_low:
        low = min(values) if metric.best is None else metric.best
        return low, max(low + metric.least_span, *values)
    high = max(values) if metric.best is None else metric.best
    return min(high - metric.least_span, *values), high


def _colorbar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12, "color": MUTED}},
        "thickness": 10,
        "outlinewidth": 0,
        "tickfont": {"size": 11, "color": MUTED},
    }


def _figure(*traces: go.Scatter | go.Heatmap, height: int) -> go.Figure:
    axis = {
        "gridcolor": RULE,
        "linecolor": RULE,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"size": 12, "color": MUTED},
        "title": {"font": {"size": 12, "color": MUTED}, "standoff": 8},
    }
    return go.Figure(
        list(traces),
        {
            "height": height,
            "margin": {"l": 56, "r": 12, "t": 8, "b": 44},
            "font": {"family": FONT, "color": INK, "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {"font": {"family": FONT, "size": 13}},
            "hovermode": "x unified" if traces and isinstance(traces[0], go.Scatter) else "closest",
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "xaxis": axis,
            "yaxis": axis,
        },
    )
