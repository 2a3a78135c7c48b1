"""Learning curves of all trials of a sweep.

Shape suffixes: P points of a curve, T trials.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import GROUND, Chart

Unit = Literal["steps", "tokens"]
AXES: dict[Unit, str] = {"steps": "optimizer step", "tokens": "tokens trained"}
MAX_NAMED = 24  # with more settings there is no legend
MAX_POINTS = 12_000  # of all curves together


class TrialCurve(NamedTuple):
    name: str  # setting, experts, seed
    setting: str  # determines the colour
    x_P: NDArray[np.float64]
    y_P: NDArray[np.float64]
    ended: str  # why the trial was stopped early; empty if it was not
    digest: str = ""  # of the run that a click opens


def learning_curves(curves: Sequence[TrialCurve], x: Unit, y: str) -> Chart:
    """One line per trial and one colour per setting. Stopped trials are faint and end in a cross.

    The y axis ignores the first fifth, where every curve falls steeply.
    """
    look = style.looks(list(dict.fromkeys(curve.setting for curve in curves)))
    key = style.legend(look, "stroke") if len(look) <= MAX_NAMED else None
    low_high = late_range(curves)
    scale = alt.Scale(domain=low_high, nice=False) if low_high else alt.Scale(zero=False)
    across = alt.Axis(format="~s" if x == "tokens" else ",d", tickCount=8)
    place: dict[str, Any] = {
        "x": style.number(alt.X, AXES[x], axis=across, scale=alt.Scale(nice=False)),
        "y": style.number(alt.Y, y, scale=scale),
    }
    drawn_as = style.drawn_as("setting", look, key)
    picked = style.picker("setting", key)
    # Without a legend nothing is picked, and a click opens the run alone.
    is_picked: Any = {"param": picked.name, "empty": True} if key else "true"
    is_faint = {"and": [is_picked, "datum.ended != ''"]}
    opacity = [{"test": is_faint, "value": 0.3}, {"test": is_picked, "value": 0.9}]
    base = alt.Chart(_table(curves, AXES[x], y)).encode(
        **place, detail=style.name(alt.Detail, "trial")
    )
    shown = alt.OpacityValue(0.06, condition=opacity)
    lines = base.mark_line(clip=True, strokeWidth=1.6).encode(**drawn_as, opacity=shown)
    # A thin line is hard to hit: a wide one that cannot be seen takes the pointer.
    wide = base.mark_line(clip=True, strokeWidth=11, strokeOpacity=0, cursor="pointer")
    hit = wide.encode(tooltip=style.tips({"trial": ""})).add_params(style.opener())
    layers = [lines.add_params(*([picked] if key else []), style.zoom()), hit]
    ends = [c._replace(x_P=c.x_P[-1:], y_P=c.y_P[-1:]) for c in curves if c.ended]
    if ends:
        cross = alt.Chart(_table(ends, AXES[x], y)).mark_point(
            shape="cross", angle=45, filled=True, size=110, opacity=1, stroke=GROUND, clip=True
        )
        tooltip = style.tips({"trial": "", "ended": ""})
        layers.append(cross.encode(**place, color=drawn_as["color"], tooltip=tooltip))
    return style.layered(*layers, description=_description(curves, y), height=460)


def late_range(curves: Sequence[TrialCurve]) -> list[float] | None:
    """The range of values after the first fifth with a margin; None if it is empty."""
    longest = max((float(curve.x_P[-1]) for curve in curves), default=0.0)
    late = np.concatenate([c.y_P[c.x_P >= longest / 5] for c in curves] or [np.zeros(0)])
    if not late.size or late.min() == late.max():
        return None
    margin = 0.05 * float(late.max() - late.min())
    return [float(late.min()) - margin, float(late.max()) + margin]


def _table(curves: Sequence[TrialCurve], x: str, y: str) -> pa.Table:
    """One row per point. Long curves are thinned; the last point is kept."""
    keep = max(1, -(-sum(len(curve.x_P) for curve in curves) // MAX_POINTS))
    ends = [len(curve.x_P) - 1 for curve in curves]
    places = [np.unique(np.append(np.arange(0, end, keep), end)) for end in ends]
    parts = {"setting": "setting", "trial": "name", "ended": "ended", "digest": "digest"}
    texts = {
        column: style.repeated([getattr(c, part) for c in curves], [*map(len, places)])
        for column, part in parts.items()
    }
    thinned = [(c.x_P[at], c.y_P[at]) for c, at in zip(curves, places, strict=True)]
    x_N, y_N = (np.concatenate([points[part] for points in thinned]) for part in (0, 1))
    return style.table(texts | {x: x_N, y: y_N})


def _description(curves: Sequence[TrialCurve], y: str) -> str:
    stopped = sum(bool(curve.ended) for curve in curves)
    text = f"{y} of {len(curves)} trials during training, {stopped} of them stopped early."
    going = [curve for curve in curves if len(curve.y_P)]
    if not going:
        return text
    best = min(going, key=lambda curve: float(curve.y_P[-1]))
    return f"{text} Lowest at its end: {best.name}, {best.y_P[-1]:.3f}."
