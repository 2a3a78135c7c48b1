"""Charts that compare the settings of a sweep: the Pareto front, and search with confirmation.

Shape suffixes: N points.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np

from evenload.pipeline.charts import style
from evenload.pipeline.charts.style import Chart

Role = Literal["search", "settings", "fresh seeds", "controls", "recommended"]
MAX_OUTSIDE = 3
MAX_LABELS = 14  # with more points, only those on the front are named
LABEL_WIDTH, LABEL_HEIGHT = 0.13, 0.04  # of a text beside a point, as shares of the axes
VIO, BITS = "MaxVio, steady (max load / fair share − 1)", "validation loss, bits per byte"
STAGES = {"search": style.BLUE, "fresh seeds": style.ORANGE}
ROLES: dict[str, tuple[str, str]] = {  # colour and shape
    "search": (style.FAINT, "circle"),
    "settings": (style.BLUE, "circle"),
    "fresh seeds": (style.BLUE, "circle"),
    "controls": (style.MUTED, "triangle-up"),
    "recommended": (style.ORANGE, "diamond"),
}


class Point(NamedTuple):
    """One setting: means, and half of their 95 % intervals over seeds, NaN for a single seed."""

    label: str
    role: Role
    max_vio: float
    bits: float  # per byte
    vio_half: float = math.nan
    bits_half: float = math.nan
    on_front: bool = False
    floor: float = math.nan  # MaxVio by chance
    idle: float = math.nan  # %
    utilisation: float = math.nan  # %
    trials: int = 1
    is_yardstick: bool = False  # does not extend the axes
    mark: str = ""  # text beside the point; empty: the label
    digest: str = ""  # of the run that a click opens


class Pair(NamedTuple):
    """A figure of one setting in the search and with fresh seeds: means and half intervals."""

    label: str
    tuned: float
    tuned_half: float
    confirmed: float
    confirmed_half: float
    seeds: int  # number of fresh seeds


def pareto_front(
    points: Sequence[Point], floor: float = math.nan, height: float = 480, loss: str = BITS
) -> Chart:
    """Loss against imbalance, with one point per setting and 95 % intervals over seeds.

    Lower left is better. The line is the Pareto front. The axes cover the settings that may be
    recommended; yardsticks outside are named below the axis.

    Args:     floor: MaxVio by chance, drawn as a dashed line
              loss: title of the losses, with their unit
    """
    near = [p for p in points if not p.is_yardstick] or list(points)
    vios = [p.max_vio for p in near] + ([floor] if floor > 0 else [])
    is_log, bits_ends = style.spans(vios), _around([p.bits for p in near], False)
    ends = _around(vios, is_log)
    linear = {"scale": alt.Scale(domain=list(ends), nice=False, zero=False)}
    more = style.log_axis([*ends, *vios], domain=list(ends)) if is_log else linear
    title = [VIO, *_outside(points, ends, bits_ends)]
    x = style.number(alt.X, VIO, title=title, **more)
    y = style.number(alt.Y, loss, scale=alt.Scale(domain=list(bits_ends), nice=False, zero=False))
    base = alt.Chart(style.table(_columns(points, loss)))
    is_right = f"scale('x', datum['{style.field(VIO)}']) > 0.7 * width"
    beside = base.mark_text(
        align=alt.ExprRef(f"{is_right} ? 'right' : 'left'"),
        dx=alt.ExprRef(f"{is_right} ? -8 : 8"),
        dy=-9,
        clip=True,
        color=style.MUTED,
        fontSize=11,
    )
    layers = [
        *_stairs(points, x, y, loss),
        *_floor(floor, x),
        *_intervals(base, x, y, title, loss),
        beside.encode(x=x, y=y, text=style.name(alt.Text, "beside")),
        _dots(base.encode(x=x, y=y), points, loss),  # on top, where they can be clicked
    ]
    return style.layered(*layers, description=_description(points), height=height)


def tune_against_confirm(pairs: Sequence[Pair], title: str) -> Chart:
    """The figure of every setting in the search and with fresh seeds, with intervals.

    The best of many tries looks better than it is, so the confirmed figure is the result.
    """
    mean_N = np.array([mean for p in pairs for mean in (p.tuned, p.confirmed)])
    half_N = np.nan_to_num([half for p in pairs for half in (p.tuned_half, p.confirmed_half)])
    columns = {
        "setting": [p.label for p in pairs for _ in STAGES],
        "stage": [*STAGES] * len(pairs),
        title: mean_N,
        "low": mean_N - half_N,
        "high": mean_N + half_N,
        "seeds": [seeds for p in pairs for seeds in (None, p.seeds)],
    }
    linear = {"scale": alt.Scale(zero=False, padding=12)}
    more = style.log_axis(mean_N) if style.spans(mean_N) else linear
    base = alt.Chart(style.table(columns)).encode(
        y=style.name(alt.Y, "setting", sort=None, title=None),
        yOffset=style.name(alt.YOffset, "stage", sort=list(STAGES)),
        color=style.scaled(alt.Color, "stage", STAGES, style.legend(STAGES)),
    )
    shape = alt.Scale(domain=list(STAGES), range=["circle", "diamond"])
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(
        x=style.number(alt.X, title, **more),
        shape=style.name(alt.Shape, "stage", scale=shape, legend=style.legend(STAGES)),
        tooltip=style.tips({"setting": "", "stage": "", title: ".4f", "low": ".4f", "high": ".4f"}),
    )
    bars = base.mark_rule(strokeWidth=1.4).encode(
        x=style.number(alt.X, "low", title=title), x2=alt.X2(field="high")
    )
    parts = "; ".join(f"{p.label}: {p.tuned:.3f}, then {p.confirmed:.3f}" for p in pairs)
    description = f"{title} in the search and with fresh seeds. {parts}."
    return style.layered(
        bars, dots, description=description, height=max(220, 130 + 40 * len(pairs))
    )


def _columns(points: Sequence[Point], loss: str) -> dict[str, Any]:
    part = {key: [getattr(p, key) for p in points] for key in Point._fields}
    vio_N, bits_N = np.array(part["max_vio"]), np.array(part["bits"])
    half_N, bits_half_N = (np.nan_to_num(part[key]) for key in ("vio_half", "bits_half"))
    return {
        "setting": part["label"],
        "role": part["role"],
        VIO: vio_N,
        loss: bits_N,
        "left": vio_N - half_N,
        "right": vio_N + half_N,
        "low": bits_N - bits_half_N,
        "high": bits_N + bits_half_N,
        "floor": part["floor"],
        "idle, %": part["idle"],
        "utilisation, %": part["utilisation"],
        "trials": part["trials"],
        "beside": _beside(points),
        "digest": part["digest"],
    }


def _beside(points: Sequence[Point]) -> list[str]:
    """The text beside every point; of many points only those on the front have one."""
    confirmed, texts = {p.label for p in points if p.role not in ("search", "controls")}, []
    for point in points:
        is_repeated = point.role == "search" and point.label in confirmed
        is_named = len(points) <= MAX_LABELS or point.on_front or point.role == "recommended"
        texts.append(point.mark or (point.label if is_named and not is_repeated else ""))
    return _apart(points, texts)


def _apart(points: Sequence[Point], texts: Sequence[str]) -> list[str]:
    """The texts without those that would lie over another one; important ones stay."""
    near = [i for i, point in enumerate(points) if not point.is_yardstick] or [*range(len(points))]
    vio_N, bits_N = (np.array([getattr(p, key) for p in points]) for key in ("max_vio", "bits"))
    if near and style.spans(vio_N[near].tolist()):
        vio_N = np.log(np.maximum(vio_N, 1e-6))
    x_N, y_N = (  # in sizes of a text
        value_N / ((np.ptp(value_N[near]) or 1.0) * size if near else 1.0)
        for value_N, size in ((vio_N, LABEL_WIDTH), (bits_N, LABEL_HEIGHT))
    )
    ranks = [(p.role != "recommended", not p.on_front) for p in points]
    kept: list[int] = []
    for i in sorted(range(len(points)), key=ranks.__getitem__):
        is_free = all(abs(x_N[i] - x_N[k]) > 1 or abs(y_N[i] - y_N[k]) > 1 for k in kept)
        kept += [i] if texts[i] and is_free else []
    return [text if i in kept else "" for i, text in enumerate(texts)]


def _outside(
    points: Sequence[Point], ends: tuple[float, float], bits_ends: tuple[float, float]
) -> list[str]:
    """A second line for the title of the axis with the points outside of the axes."""
    named = [
        f"{point.mark or point.label} ({point.max_vio:.2g}, {point.bits:.3f})"
        for point in points
        if not (ends[0] <= point.max_vio <= ends[1] and bits_ends[0] <= point.bits <= bits_ends[1])
    ]
    return [f"outside of the chart: {', '.join(named[:MAX_OUTSIDE])}"] if named else []


def _dots(base: alt.Chart, points: Sequence[Point], loss: str) -> alt.Chart:
    roles = [role for role in ROLES if any(p.role == role for p in points)]
    colours, shapes = ({role: ROLES[role][part] for role in roles} for part in (0, 1))
    shown = {"setting": "", VIO: ".3f", "floor": ".3f", loss: ".4f"}
    shown |= {"idle, %": ".1f", "utilisation, %": ".0f", "trials": "d"}
    point = base.mark_point(filled=True, opacity=1, size=95, clip=True, cursor="pointer")
    dots = point.encode(
        color=style.scaled(alt.Color, "role", colours, style.legend(roles)),
        shape=style.scaled(alt.Shape, "role", shapes, style.legend(roles)),
        tooltip=style.tips(shown),
    )
    return dots.add_params(style.opener(), style.zoom("x", "y"))


def _intervals(base: alt.Chart, x: alt.X, y: alt.Y, title: list[str], loss: str) -> list[alt.Chart]:
    """95 % intervals of both figures; of length zero for a single seed."""
    bar = base.mark_rule(color=style.MUTED, strokeWidth=1.2, clip=True)
    low, left = style.number(alt.Y, "low", title=loss), style.number(alt.X, "left", title=title)
    return [
        bar.encode(x=x, y=low, y2=alt.Y2(field="high")),
        bar.encode(y=y, x=left, x2=alt.X2(field="right")),
    ]


def _stairs(points: Sequence[Point], x: alt.X, y: alt.Y, loss: str) -> list[alt.Chart]:
    """The border of the dominated region, up to the worst of all settings."""
    corners = sorted((p.max_vio, p.bits) for p in points if p.on_front)
    if not corners:
        return []
    worst = max(p.max_vio for p in points), max(p.bits for p in points)
    corners = [(corners[0][0], worst[1]), *corners, (worst[0], corners[-1][1])]
    # Not a table, because exports have the tables of a chart: one row per setting.
    front = alt.Chart(alt.InlineData(values=[{VIO: vio, loss: bits} for vio, bits in corners]))
    line = front.mark_line(color=style.GREEN, strokeWidth=2, interpolate="step-after", clip=True)
    return [line.encode(x=x, y=y, order=style.number(alt.Order, VIO))]


def _floor(floor: float, x: alt.X) -> list[alt.Chart]:
    if not floor > 0:
        return []
    base = alt.Chart(alt.InlineData(values=[{VIO: floor}])).encode(x=x)
    text = base.mark_text(color=style.RED, align="left", dx=4, y=8, fontSize=11, text="by chance")
    return [base.mark_rule(color=style.RED, strokeDash=list(style.DASHED)), text]


def _around(values: Sequence[float], is_log: bool) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = (math.log10(v) if is_log else v for v in (min(values), max(values)))
    room = 0.15 * (high - low) or 0.05 * abs(low) or 1.0
    low, high = low - room, high + room
    return (10**low, 10**high) if is_log else (low, high)


def _description(points: Sequence[Point]) -> str:
    if not points:
        return "Loss against imbalance. No setting is complete yet."
    front = ", ".join(
        f"{p.mark} {p.label} (loss {p.bits:.3f}, MaxVio {p.max_vio:.2f})".strip()
        for p in sorted((p for p in points if p.on_front), key=lambda p: p.max_vio)
    )
    best = "".join(f" Recommended: {p.label}." for p in points if p.role == "recommended")
    settings = sum(p.role != "search" for p in points)
    return f"Loss against imbalance of {settings} settings. On the front: {front}.{best}"
