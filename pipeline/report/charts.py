"""The drawings of a report: numbers in, SVG out.

Letters: B bins of time, L expert layers, E experts, R expert-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures.loads import Array
from evenload.pipeline.report import svg
from evenload.pipeline.report.page import Figure
from evenload.pipeline.report.svg import ACCENT, GREY, INK, MUTED, WARNING, element, text

WIDE_RANGE = 8  # of the largest to the smallest value: an axis is logarithmic from here on
IDLE = (0, 0, 0)
# Share of the fair load -> colour: blue is too little, orange too much, as in the dashboard.
LOAD_STOPS = (0.0, 0.6, 1.0, 1.4, 2.0)
LOAD_COLOURS = ((11, 74, 143), (127, 178, 224), (245, 245, 242), (243, 178, 107), (179, 88, 6))


class Point(NamedTuple):
    """One setting in a plane of imbalance and loss."""

    number: int  # its row in the table beside the drawing
    label: str
    max_vio: float
    loss: float
    loss_half: float | None = None  # half width of its interval
    on_front: bool = False
    is_best: bool = False
    is_yardstick: bool = False


class LoadMap(NamedTuple):
    """The loads of one run over its fair share; each cell is a ratio of sums over its steps."""

    name: str
    util_LE: Array  # the last quarter of the run
    util_BE: Array  # over the run, of the layer that is least even in the end
    layer: int  # that layer, counted among all layers of the model
    first_layer: int  # the first expert layer, counted likewise
    steps: int  # of the run so far


class Series(NamedTuple):
    """One line over expert-parallel sizes."""

    name: str
    value_by_size: dict[int, float]
    role: str  # best, control or other


def pareto(points: Sequence[Point], floor: float, title: str) -> Figure:
    """Loss over imbalance; the front joined, the floor marked, points numbered as in the table."""
    width, height, left, right, top, bottom = 400.0, 290.0, 50.0, 388.0, 30.0, 246.0
    vios = [point.max_vio for point in points] + ([floor] if floor > 0 else [])
    is_log = min(vios) > 0 and max(vios) / min(vios) > WIDE_RANGE
    x = svg.scale_over(vios, left, right, is_log=is_log)
    edges = [p.loss + sign * (p.loss_half or 0) for p in points for sign in (-1, 1)]
    y = svg.scale_over(edges, bottom, top)
    parts = [
        svg.x_axis(x, bottom, top, "MaxVio, steady" + (" (log scale)" if is_log else "")),
        svg.y_axis(y, left, right, "validation loss, bits per byte"),
    ]
    if floor > 0:
        at = x.at(floor)
        parts.append(
            element("line", x1=at, x2=at, y1=top, y2=bottom, stroke=WARNING, stroke_dasharray="4 3")
        )
        parts.append(text("chance", at + 4, top + 10, fill=WARNING, font_size=11))
    parts.append(_front(points, x, y))
    # The best last: what overlaps must not hide it.
    parts += [_mark(point, x, y) for point in sorted(points, key=lambda p: p.is_best)]
    says = _pareto_says(points, floor, title)
    return Figure(svg.drawing("".join(parts), width, height, says), says, title)


def load_maps(found: LoadMap) -> list[Figure]:
    """Layers by experts at the end of the run, and experts over time in its least even layer."""
    L, E = found.util_LE.shape
    layers = [str(found.first_layer + layer) for layer in range(L)]
    by_layer = _map(
        found.util_LE,
        rows=layers,
        columns=(0, E - 1),
        x_title=f"expert (0 to {E - 1})",
        y_title="layer",
        row_height=min(26.0, max(8.0, 130 / L)),
        says=f"{found.name}: load by layer and expert, last quarter of the run. "
        f"{_extremes(found.util_LE)}",
        title=f"{found.name}: layers and experts, last quarter",
    )
    over_time = _map(
        found.util_BE.T,
        rows=["0", *[""] * (E - 2), str(E - 1)] if E > 1 else ["0"],
        columns=(1, found.steps),
        x_title=f"optimizer step (1 to {found.steps})",
        y_title="expert",
        row_height=min(14.0, max(2.5, 200 / E)),
        says=f"{found.name}: load of every expert of layer {found.layer}, the least even one, "
        f"over {found.steps} steps in {len(found.util_BE)} bins. {_extremes(found.util_BE)}",
        title=f"{found.name}: experts of layer {found.layer} over time",
    )
    return [by_layer, over_time]


def load_key() -> Figure:
    """What the colours of the load maps mean."""
    left, width, top = 8.0, 360.0, 8.0
    ramp_X = np.linspace(0.005, LOAD_STOPS[-1], 180)
    parts = [
        svg.cells(load_colours(np.zeros((1, 1))), left, top, 26, 14),
        text("idle", left + 13, top + 30, text_anchor="middle", fill=MUTED, font_size=11),
        svg.cells(load_colours(ramp_X[None, :]), left + 44, top, width, 14),
    ]
    for share, name in (
        (0.0, ">0"),
        (0.5, "half"),
        (1.0, "fair"),
        (1.5, "1.5x"),
        (2.0, "2x, more"),
    ):
        x = left + 44 + width * share / 2
        parts.append(text(name, x, top + 30, text_anchor="middle", fill=MUTED, font_size=11))
    says = "Load over the fair share; black had no token at all in the steps of its cell."
    return Figure(svg.drawing("".join(parts), 480, 44, says), says)


def waiting_lines(series: Sequence[Series], title: str) -> Figure:
    """Share of a step lost to imbalance over expert-parallel sizes."""
    width, height, left, right, top, bottom = 500.0, 300.0, 52.0, 330.0, 34.0, 250.0
    sizes = sorted({size for line in series for size in line.value_by_size})
    x = {
        size: left + 14 + (right - left - 28) * place / max(1, len(sizes) - 1)
        for place, size in enumerate(sizes)
    }
    largest = max(100 * v for line in series for v in line.value_by_size.values())
    y = svg.Scale(0.0, max(1.0, largest * 1.1), bottom, top)
    parts = [svg.y_axis(y, left, right, "% of the step's time")]
    parts += [
        text(str(size), at, bottom + 16, text_anchor="middle", fill=MUTED) for size, at in x.items()
    ]
    middle = (left + right) / 2
    parts.append(
        text("expert-parallel ranks", middle, bottom + 34, text_anchor="middle", fill=MUTED)
    )
    for line in sorted(series, key=lambda line: line.role == "best"):
        parts.append(_line(line, x, y))
    parts.append(_line_names(series, x, y, right + 8))
    says = _waiting_says(series)
    return Figure(svg.drawing("".join(parts), width, height, says), says, title)


def load_colours(util_YX: Array) -> NDArray[np.uint8]:
    """One colour a cell; shape (Y, X, 3). Grey where nothing was counted."""
    channels = [
        np.interp(util_YX, LOAD_STOPS, [colour[channel] for colour in LOAD_COLOURS])
        for channel in range(3)
    ]
    colour_YX3 = np.nan_to_num(np.stack(channels, axis=-1), nan=210.0).round().astype(np.uint8)
    colour_YX3[util_YX == 0] = IDLE
    return colour_YX3


def _front(points: Sequence[Point], x: svg.Scale, y: svg.Scale) -> str:
    corners = sorted((p.max_vio, p.loss) for p in points if p.on_front)
    if len(corners) < 2:
        return ""
    path = " ".join(f"{x.at(vio):.1f},{y.at(loss):.1f}" for vio, loss in corners)
    return element("polyline", points=path, fill="none", stroke=ACCENT, stroke_opacity="0.45")


def _mark(point: Point, x: svg.Scale, y: svg.Scale) -> str:
    at_x, at_y = x.at(point.max_vio), y.at(point.loss)
    colour = ACCENT if point.is_best else GREY if point.is_yardstick else INK
    filled = point.is_best or point.on_front
    parts = [svg.tip(f"{point.label}: MaxVio {point.max_vio:.3f}, loss {point.loss:.4f}")]
    if point.loss_half:
        ends = y.at(point.loss - point.loss_half), y.at(point.loss + point.loss_half)
        parts.append(element("line", x1=at_x, x2=at_x, y1=ends[0], y2=ends[1], stroke=colour))
    parts.append(
        element(
            "circle",
            cx=at_x,
            cy=at_y,
            r=11 if point.is_best else 9,
            fill=colour if filled else "#fff",
            stroke=colour,
            stroke_width=1.5,
        )
    )
    ink = "#fff" if filled else colour
    parts.append(
        text(str(point.number), at_x, at_y + 4, text_anchor="middle", font_size=11, fill=ink)
    )
    return element("g", "".join(parts))


def _pareto_says(points: Sequence[Point], floor: float, title: str) -> str:
    front = sorted((p for p in points if p.on_front), key=lambda p: p.max_vio)
    names = ", ".join(f"{p.number} ({p.label})" for p in front)
    return f"{title}: on the front {names}; MaxVio by chance {floor:.2f}."


def _map(
    util_YX: Array,
    *,
    rows: Sequence[str],
    columns: tuple[int, int],
    x_title: str,
    y_title: str,
    row_height: float,
    says: str,
    title: str,
) -> Figure:
    left, top, width = 44.0, 22.0, 446.0
    height = row_height * len(rows)
    parts: list[Any] = [svg.cells(load_colours(util_YX), left, top, width, height)]
    skip = max(1, round(14 / row_height))
    for place, name in enumerate(rows):
        if name and (place % skip == 0 or place == len(rows) - 1):
            middle = top + row_height * (place + 0.5) + 4
            parts.append(text(name, left - 6, middle, text_anchor="end", fill=MUTED, font_size=11))
    parts.append(text(y_title, left, top - 8, fill=MUTED, font_size=11))
    parts.append(
        text(x_title, left + width / 2, top + height + 16, text_anchor="middle", fill=MUTED)
    )
    return Figure(svg.drawing("".join(parts), 500, top + height + 24, says), says, title)


def _extremes(util: Array) -> str:
    counted = util[np.isfinite(util)]
    if not counted.size:
        return "Nothing was counted."
    return (
        f"From {counted.min():.0%} to {counted.max():.0%} of the fair share; "
        f"{(counted == 0).mean():.1%} of the cells are idle."
    )


def _line(line: Series, x: dict[int, float], y: svg.Scale) -> str:
    colour = {"best": ACCENT, "control": WARNING}.get(line.role, "#b3bcc6")
    spots = [(x[size], y.at(100 * value)) for size, value in sorted(line.value_by_size.items())]
    path = " ".join(f"{at_x:.1f},{at_y:.1f}" for at_x, at_y in spots)
    width = 1.2 if line.role == "other" else 2.2
    dots = "".join(
        element("circle", cx=at_x, cy=at_y, r=width + 0.8, fill=colour) for at_x, at_y in spots
    )
    drawn = element("polyline", points=path, fill="none", stroke=colour, stroke_width=width)
    return element("g", svg.tip(line.name) + drawn + dots)


def _line_names(series: Sequence[Series], x: dict[int, float], y: svg.Scale, left: float) -> str:
    """Names at the lines' ends, pushed apart where they would overlap."""
    ends = sorted(
        (y.at(100 * line.value_by_size[max(line.value_by_size)]), line.name, line.role)
        for line in series
        if line.role != "other" or len(series) <= 8
    )
    parts, free = [], 0.0
    for at, name, role in ends:
        free = max(at, free)
        colour = {"best": ACCENT, "control": WARNING}.get(role, MUTED)
        parts.append(text(name, left, free + 4, fill=colour, font_size=11))
        free += 14
    return "".join(parts)


def _waiting_says(series: Sequence[Series]) -> str:
    parts = []
    for line in series:
        if line.role != "other":
            size = max(line.value_by_size)
            hours = 1000 * line.value_by_size[size]
            parts.append(f"{hours:,.0f} with {line.name} at {size} ranks")
    return "Of 1,000 GPU hours ranks would wait " + ", ".join(parts) + "."
