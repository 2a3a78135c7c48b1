"""Loss, MaxVio and the events of a run above each other, over the same steps.

Dragging over any of them zooms all three. Shape suffixes: B bins of time, L expert layers.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.charts import style
from evenload.pipeline.charts.over_time import STEP
from evenload.pipeline.charts.style import BLUE, FAINT, GREEN, IDLE, ORANGE, RED, Chart, Look
from evenload.pipeline.figures.events import KINDS, Event, told
from evenload.pipeline.figures.wording import counted, listed

LAST = "last step"
EVENT, WHAT = "event", "what"
COLOURS = dict(zip(KINDS, (RED, IDLE, ORANGE, GREEN), strict=True))
LINES = {"worst layer": Look(BLUE), "mean of layers": Look(FAINT), "floor": Look(RED, style.DASHED)}
VIO = "MaxVio"


def timeline(
    loss_B: NDArray[Any],
    loss_title: str,
    max_vio_BL: NDArray[Any],
    floor: float,
    step_B: NDArray[np.int32],
    events: Sequence[Event],
    layers: Sequence[str],
) -> Chart:
    """Args:     loss_B: NaN where nobody told it; loss_title: with the unit; layers: names"""
    times = Counter(event.kind for event in events)
    found = listed([counted(times[kind], kind) for kind in KINDS if times[kind]]) or "no events"
    parts = [_events(events, layers), _max_vio(max_vio_BL, floor, step_B)]
    if np.isfinite(loss_B).any():
        parts.append(_loss(loss_B, loss_title, step_B))
    drag: Any = style.zoom().param
    names = [f"part_{place}" for place in range(len(parts))]
    for part, name in zip(parts, names, strict=True):
        part.name = name
    return alt.VConcatChart(
        vconcat=parts,
        params=[alt.TopLevelSelectionParameter(name=style.ZOOM, select=drag.select, views=names)],
        resolve=alt.Resolve(
            scale=alt.ScaleResolveMap(x="shared", color="independent", strokeDash="independent")
        ),
        spacing=6,
        description=f"Events, MaxVio and loss over the same steps: {found}.",
    )


def _loss(loss_B: NDArray[Any], title: str, step_B: NDArray[np.int32]) -> alt.Chart:
    known_B = np.isfinite(loss_B)
    table = style.table({STEP: step_B[known_B], title: loss_B[known_B]})
    return _lines(table, title, 130).encode(color=alt.value(BLUE))


def _max_vio(max_vio_BL: NDArray[Any], floor: float, step_B: NDArray[np.int32]) -> alt.Chart:
    B = len(step_B)
    values = (max_vio_BL.max(axis=1), max_vio_BL.mean(axis=1), np.full(B, floor))
    shown = LINES if np.isfinite(floor) else {n: LINES[n] for n in [*LINES][:2]}
    columns = {
        "series": style.repeated([*shown], [B] * len(shown)),
        STEP: np.tile(step_B, len(shown)),
        VIO: np.concatenate(values[: len(shown)]),
    }
    key = alt.Legend(title=None, orient="top", symbolType="stroke", symbolSize=300)
    return _lines(style.table(columns), VIO, 170).encode(**style.drawn_as("series", shown, key))


def _events(events: Sequence[Event], layers: Sequence[str]) -> alt.Chart:
    columns = {
        STEP: pa.array([event.first_step for event in events], pa.int32()),
        LAST: pa.array([event.last_step for event in events], pa.int32()),
        EVENT: pa.array([event.kind for event in events], pa.string()),
        WHAT: pa.array([told(event, layers) for event in events], pa.string()),
    }
    scale = alt.Scale(domain=[*KINDS], range=[*COLOURS.values()])
    marked = alt.Chart(style.table(columns), height=24 * len(KINDS)).mark_rule(
        strokeWidth=9, clip=True, strokeCap="square"
    )
    return marked.encode(
        x=style.number(alt.X, STEP, title=None, axis=alt.Axis(labels=False, title=None)),
        x2=alt.X2(field=style.field(LAST)),
        y=style.name(alt.Y, EVENT, title=None, sort=[*KINDS], scale=alt.Scale(domain=[*KINDS])),
        color=style.name(alt.Color, EVENT, scale=scale, legend=None),
        tooltip=style.tips({WHAT: "", STEP: ",d", LAST: ",d"}),
    )


def _lines(table: pa.Table, y: str, height: int) -> alt.Chart:
    dots = alt.OverlayMarkDef(size=50, opacity=0)  # for the tooltips
    drawn = alt.Chart(table, height=height).mark_line(clip=True, strokeWidth=1.6, point=dots)
    return drawn.encode(
        x=style.number(alt.X, STEP, axis=alt.Axis(format=",d", tickCount=8)),
        y=style.number(alt.Y, y, scale=alt.Scale(zero=False)),
        tooltip=style.tips({STEP: ",d", y: ".4g"}),
    )
