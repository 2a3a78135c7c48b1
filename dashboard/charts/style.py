"""What every chart is drawn with: colours, axes, lines, levels, colour bars, and its words.

Charts take the colours of the light page; `themed` exchanges them for those of the dark one. Blue
is below the fair share, orange above; idle has the strongest contrast to both. They are told apart
with any colour vision, and in print.

Shape suffixes: B points in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.colors import sample_colorscale

Theme = Literal["light", "dark"]
EMPTY = go.layout.Template()
MAX_NAMED_LINES = 12  # of more, the legend would be larger than its chart; hovering names them
FONT = '"Source Sans", "Source Sans Pro", "Segoe UI", sans-serif'


class Colours(NamedTuple):
    """By what they mean; one set a theme."""

    ink: str  # text and the line that matters
    muted: str  # ticks and titles of axes
    rule: str  # grid
    ground: str  # cells without a number
    blue: str
    orange: str
    green: str
    red: str  # levels to compare with, what failed
    faint: str  # context behind a line
    idle: str
    lowest: str  # 1 % of the fair share
    low: str
    fair: str
    high: str
    highest: str  # twice the fair share and more
    good: str
    middling: str
    bad: str


LIGHT = Colours(
    ink="#1f2933",
    muted="#5b6773",
    rule="#e3e8ee",
    ground="#f4f6f9",
    blue="#2b6cb0",
    orange="#d9730d",
    green="#0f8a6d",
    red="#c2410c",
    faint="#b8cfe6",
    idle="#000000",
    lowest="#0b4a8f",
    low="#7fb2e0",
    fair="#f5f5f2",
    high="#f3b26b",
    highest="#b35806",
    good="#e6f2ee",
    middling="#f2d9a6",
    bad="#c2571a",
)
DARK = Colours(
    ink="#e6eaef",
    muted="#a3afbb",
    rule="#2b343f",
    ground="#1b222c",
    blue="#63a4ea",
    orange="#f0963c",
    green="#35b894",
    red="#f5794a",
    faint="#34506e",
    idle="#ffffff",
    lowest="#7cc0ff",
    low="#3777b8",
    fair="#232a34",
    high="#bd6a1b",
    highest="#ffab52",
    good="#16352e",
    middling="#6b531f",
    bad="#f0894a",
)
THEMES: dict[Theme, Colours] = {"light": LIGHT, "dark": DARK}

# Of one lightness, so that they read on both grounds: first to last, and held back to helped.
FIRST_TO_LAST = [[0.0, "#3577c2"], [0.5, "#a8629f"], [1.0, "#cf7a1d"]]
LOW_TO_HIGH = [[0.0, "#2f7fd6"], [0.5, "#93a0ad"], [1.0, "#d97a16"]]
# Okabe and Ito's colours that keep a contrast of 3 on both grounds.
CATEGORIES = (
    "#2b7fc2",
    "#cf7a1d",
    "#0f9d78",
    "#b0639b",
    "#7d8893",
    "#8f7a1a",
    "#c25450",
    "#3aa0b8",
)
DASHES = ("solid", "dash", "dot", "dashdot")

GOOD_IS_LOW = [[0.0, LIGHT.good], [0.5, LIGHT.middling], [1.0, LIGHT.bad]]
GOOD_IS_HIGH = [[0.0, LIGHT.bad], [0.5, LIGHT.middling], [1.0, LIGHT.good]]


def themed(chart: go.Figure, theme: Theme) -> go.Figure:
    """The chart in the colours of a theme; the chart given stays as it is."""
    if theme == "light":
        return chart
    exchange = dict(zip(LIGHT, THEMES[theme], strict=True))
    return go.Figure(_exchanged(chart.to_plotly_json(), exchange), skip_invalid=True)


def ramp(scale: list[list[Any]], number: int) -> list[str]:
    """`number` colours along a scale; one takes its start."""
    return list(sample_colorscale(scale, np.linspace(0, 1, number) if number > 1 else [0.0]))


def figure(
    *traces: go.Scatter | go.Heatmap | go.Bar,
    height: int,
    says: str = "",
    x: str = "",
    y: str = "",
) -> go.Figure:
    """A figure in the common frame.

    Args:     says: what a reader who cannot see it must know; x, y: titles of the axes, with units
    """
    axis = {
        "gridcolor": LIGHT.rule,
        "linecolor": LIGHT.rule,
        "automargin": True,
        "zeroline": False,
        "ticks": "",
        "tickfont": {"size": 12, "color": LIGHT.muted},
        "title": {"font": {"size": 12, "color": LIGHT.muted}, "standoff": 8},
    }
    is_lines = bool(traces) and isinstance(traces[0], go.Scatter)
    chart = go.Figure(
        list(traces),
        {
            "height": height,
            "margin": {"l": 56, "r": 12, "t": 8, "b": 36},
            "font": {"family": FONT, "color": LIGHT.ink, "size": 13},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "hoverlabel": {
                "font": {"family": FONT, "size": 13, "color": LIGHT.ink},
                "bgcolor": LIGHT.ground,
                "bordercolor": LIGHT.rule,
            },
            "hovermode": "x unified" if is_lines else "closest",
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "xaxis": axis,
            "yaxis": axis,
            "meta": {"says": says},
            "template": EMPTY,  # plotly's own would travel with every chart, 7 KB each
        },
    )
    chart.update_xaxes(title_text=x)
    chart.update_yaxes(title_text=y)
    return chart


def says(chart: go.Figure) -> str:
    """What the chart shows, in a sentence; its alternative text."""
    return str((chart.layout.meta or {}).get("says", ""))


def line(
    step_B: NDArray[np.int32],
    value_B: NDArray[np.float32],
    colour: str,
    name: str,
    hover: str,
    width: float = 1.5,
    dash: str = "solid",
) -> go.Scatter:
    """Values at their steps. Even steps are told by start and distance: 64 lines would repeat 400.

    Args:     hover: plotly's template of the value, e.g. `%{y:.3f}`
    """
    spacings = np.unique(np.diff(step_B))
    even = {"x0": step_B[0].item(), "dx": spacings[0].item()} if len(spacings) == 1 else None
    return go.Scatter(
        y=value_B,
        **(even or dict(x=step_B)),
        mode="lines" if len(step_B) > 1 else "markers",
        name=name,
        line={"color": colour, "width": width, "dash": dash},
        marker={"color": colour},
        hovertemplate=f"step %{{x}}: <b>{hover}</b><extra>{name}</extra>",
    )


def layer_lines(
    value_BL: NDArray[np.float32], step_B: NDArray[np.int32], names: Sequence[str], hover: str
) -> list[go.Scatter]:
    """A line a layer, coloured from first to last; of many only the ends are in the legend."""
    lines = [
        line(step_B, value_BL[:, index], colour, f"layer {name}", hover, width=1.4)
        for index, (name, colour) in enumerate(
            zip(names, ramp(FIRST_TO_LAST, len(names)), strict=True)
        )
    ]
    if len(lines) > MAX_NAMED_LINES:
        for unnamed in lines[1:-1]:
            unnamed.showlegend = False
    return lines


def add_level(chart: go.Figure, step_B: NDArray[np.int32], level: float, name: str) -> None:
    """A dashed line over the whole time, named in the legend."""
    if len(step_B) and np.isfinite(level):
        chart.add_trace(
            go.Scatter(
                x=[step_B[0].item(), step_B[-1].item()],
                y=[level, level],
                mode="lines",
                name=name,
                line={"color": LIGHT.red, "width": 1.5, "dash": "dash"},
                hoverinfo="skip",
            )
        )


def colorbar(title: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12, "color": LIGHT.muted}},
        "thickness": 10,
        "outlinewidth": 0,
        "tickfont": {"size": 11, "color": LIGHT.muted},
    }


def _exchanged(part: Any, exchange: dict[str, str]) -> Any:
    """`part` with every colour exchanged; numbers travel as they are."""
    if isinstance(part, dict):
        if "bdata" in part:
            return part
        return {key: _exchanged(value, exchange) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_exchanged(value, exchange) for value in part]
    return exchange.get(part, part) if isinstance(part, str) else part
