"""Heat maps.

Shape suffixes: Y rows, X columns.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evenload.pipeline.charts.style import GROUND, Chart, field, layered, number, scaled, tips

MAX_CELLS = 20_000  # browsers need too long to draw more
MAX_APART = 600  # with more cells there are no gaps between them
MAX_TICKS = 12
OVERLAP = 1.04  # cells overlap, because otherwise the ground is visible between them


class Side(NamedTuple):
    title: str  # with the unit
    at: Sequence[Any]  # label of each row or column


class Scale(NamedTuple):
    title: str  # of the values, with their unit
    stops: Sequence[float]
    colours: Sequence[str]
    ticks: Sequence[float]
    # Colours outside of the ramp: name -> a condition on `value` and the colour.
    apart: dict[str, tuple[str, str]] = {}  # noqa: RUF012 (never changed)
    label: str = "datum.label"  # Vega expression of a tick's label
    form: str = ",d"  # d3 format of the values
    is_signed: bool = False  # whether negative values are drawn


def heat_map(
    value_YX: NDArray[Any], rows: Side, columns: Side, scale: Scale, description: str, height: float
) -> Chart:
    """One coloured cell per value. NaN is blank, and so are negative values if not `is_signed`."""
    counted_YX = ~np.isnan(value_YX) if scale.is_signed else value_YX >= 0
    y_N, x_N = np.nonzero(counted_YX)
    columns_of = {columns.title: _places(columns, x_N), rows.title: _places(rows, y_N)}
    cells = pa.table(columns_of | {scale.title: value_YX[counted_YX]})
    band = alt.RelativeBandSize(band=0.94 if value_YX.size <= MAX_APART else OVERLAP)
    shown = {side.title: "" for side in (rows, columns)} | {scale.title: scale.form}
    drawn = alt.Chart(cells).mark_rect(width=band, height=band)
    drawn = drawn.encode(
        x=_side(alt.X, columns), y=_side(alt.Y, rows), color=_colour(scale), tooltip=tips(shown)
    )
    resolve = alt.Resolve(scale=alt.ScaleResolveMap(color="independent"))
    layers = [drawn, _apart(scale)] if scale.apart else [drawn]
    ground = alt.ViewBackground(fill=GROUND, stroke=None)
    return layered(*layers, description=description, height=height, resolve=resolve, view=ground)


def pooled(value_YX: NDArray[Any], axis: int, size: int, is_mean: bool = False) -> NDArray[Any]:
    """Pools `size` neighbours along an axis: their largest value, or the mean of counted ones.

    A mean is at least 1 if any value is not 0, so that only cells without any load look idle.
    """
    if size == 1:
        return value_YX
    first = np.arange(0, value_YX.shape[axis], size)
    largest_YX = np.maximum.reduceat(value_YX, first, axis=axis)
    if not is_mean:
        return largest_YX
    counted_YX = np.add.reduceat((value_YX >= 0).astype(np.int64), first, axis=axis)
    sum_YX = np.add.reduceat(np.maximum(value_YX, 0).astype(np.int64), first, axis=axis)
    mean_YX = np.maximum(np.rint(sum_YX / np.maximum(counted_YX, 1)), 1)
    return np.where(largest_YX > 0, mean_YX, largest_YX).astype(value_YX.dtype)


def per_cell(rows: int, columns: int) -> int:
    """The number of columns per cell with which the map has at most MAX_CELLS."""
    return max(1, -(-rows * columns // MAX_CELLS))


def sharing(size: int, what: str = "") -> str:
    """The end of an axis title if cells are pooled."""
    return f" ({size} {what} per cell)".replace("  ", " ") if size > 1 else ""


def _places(side: Side, index_N: NDArray[np.int64]) -> pa.Array:
    at = pa.array(side.at)
    at = at.cast(pa.int32()) if pa.types.is_int64(at.type) else at
    return at.take(pa.array(index_N))


def _side(channel: Any, side: Side) -> Any:
    named = list(side.at)[:: max(1, -(-len(side.at) // MAX_TICKS))]
    return channel(
        field=field(side.title),
        type="ordinal",
        sort=None,
        title=side.title.strip(),
        scale=alt.Scale(domain=list(side.at), padding=0),
        axis=alt.Axis(values=named, labelAngle=0, domain=False, grid=False),
    )


def _colour(scale: Scale) -> alt.Color:
    value = f"datum['{field(scale.title)}']"
    ramp = alt.Scale(
        domain=list(scale.stops), range=list(scale.colours), clamp=True, interpolate="rgb"
    )
    key = alt.Legend(
        title=scale.title, values=list(scale.ticks), labelExpr=scale.label,
        gradientLength=160, gradientThickness=10, titleLimit=300,
    )  # fmt: skip
    tests = [
        {"test": test.replace("value", value), "value": shown}
        for test, shown in scale.apart.values()
    ]
    more = {"condition": tests} if tests else {}
    return number(alt.Color, scale.title, scale=ramp, legend=key, **more)


def _apart(scale: Scale) -> alt.Chart:
    """Invisible marks that give a legend to the colours outside of the ramp."""
    colours = {name: colour for name, (_, colour) in scale.apart.items()}
    legend = alt.Legend(
        title=None, orient="bottom", symbolType="square", symbolOpacity=1, symbolSize=140
    )
    names = alt.Chart(alt.InlineData(values=[{"apart": name} for name in colours]))
    return names.mark_square(opacity=0, size=0).encode(
        color=scaled(alt.Color, "apart", colours, legend)
    )
