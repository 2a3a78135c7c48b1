"""Colours, themes, encodings, legends and axis ticks of all charts.

A chart is built in the light theme; `themed` exchanges its colours. Blue is below the fair share
and orange above it; idle has the strongest contrast to both. They can be distinguished with any
colour vision, and in print.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import altair as alt
import numpy as np
import pyarrow as pa

Theme = Literal["light", "dark"]
Chart = alt.LayerChart | alt.VConcatChart
Legend = alt.Legend | None
Span = tuple[float, float]
Channel = TypeVar("Channel")
FONT = '"Source Sans", "Source Sans 3", "Segoe UI", Helvetica, Arial, sans-serif'
LABEL_PIXELS = 210  # longer labels of axes and legends are cut off
FACTORS = (1, 2, 5)
ZOOM = "zoom"  # the name of the selection of a range of x
OPEN, OPEN_LINE = "open", "open_line"  # names of selections whose marks open a run
MAX_DECADES = 3.5  # axes over more decades have ticks only at powers of ten


class Colour(str):
    """A colour of the light theme with its counterpart in the dark one."""

    dark: str

    def __new__(cls, light: str, dark: str) -> Colour:
        colour = super().__new__(cls, light)
        colour.dark = dark
        return colour


INK = Colour("#1f2933", "#e6eaef")  # text
MUTED = Colour("#5b6773", "#a3afbb")  # ticks and titles of axes
RULE = Colour("#e3e8ee", "#2b343f")  # grid
GROUND = Colour("#f4f6f9", "#1b222c")  # cells without a number
BLUE = Colour("#2b6cb0", "#63a4ea")
ORANGE = Colour("#d9730d", "#f0963c")
GREEN = Colour("#0f8a6d", "#35b894")
RED = Colour("#c2410c", "#f5794a")  # levels for comparison
FAINT = Colour("#b8cfe6", "#34506e")  # context behind a line
IDLE = Colour("#000000", "#ffffff")
LOWEST = Colour("#0b4a8f", "#7cc0ff")  # 1 % of the fair share
LOW = Colour("#7fb2e0", "#3777b8")
FAIR = Colour("#f5f5f2", "#232a34")
HIGH = Colour("#f3b26b", "#8a5016")
HIGHEST = Colour("#b35806", "#d9771c")  # twice the fair share
BEYOND = Colour("#7a2f00", "#ffae57")  # above the range of the colours
EXTREME = Colour("#a0179b", "#ff7be5")  # far above it
GOOD = Colour("#e6f2ee", "#16352e")
MIDDLING = Colour("#f2d9a6", "#6b531f")
BAD = Colour("#c2571a", "#f0894a")

# These colours are visible on both grounds.
FIRST_TO_LAST = ("#3577c2", "#a8629f", "#cf7a1d")
LOW_TO_HIGH = ("#2f7fd6", "#93a0ad", "#d97a16")
# The colours of Okabe and Ito, changed to a contrast of at least 2.5 on both grounds.
CATEGORIES = (
    *("#2b7fc2", "#cf7a1d", "#0f9d78", "#b0639b"),
    *("#7d8893", "#8f7a1a", "#c25450", "#3aa0b8"),
)
SOLID, DASHED, DOTTED = (1, 0), (6, 4), (2, 3)
DASHES = (SOLID, DASHED, DOTTED, (8, 3, 2, 3))


class Look(NamedTuple):
    colour: str
    dash: Sequence[int] = SOLID


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A colour and a dash for each name, or a ramp of colours if there are too many names."""
    if len(names) > len(CATEGORIES) * len(DASHES):
        return {n: Look(c) for n, c in zip(names, ramp(LOW_TO_HIGH, len(names)), strict=True)}
    number = len(CATEGORIES)
    return {
        name: Look(CATEGORIES[place % number], DASHES[place // number])
        for place, name in enumerate(names)
    }


def ramp(stops: Sequence[str], number: int) -> list[str]:
    """`number` colours spread evenly over the stops; a single colour is the first stop."""
    rgb = np.array([[int(stop[at : at + 2], 16) for at in (1, 3, 5)] for stop in stops])
    at_N = np.linspace(0, len(stops) - 1, number) if number > 1 else np.zeros(number)
    mixed = np.stack([np.interp(at_N, np.arange(len(stops)), channel) for channel in rgb.T], -1)
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in mixed.round().astype(int).tolist()]


class Layers(alt.LayerChart):
    """Layers that a page draws unchecked: the check takes longer than all the rest of a chart."""

    def to_dict(self, validate: bool = False, **more: Any) -> dict[str, Any]:
        return super().to_dict(validate, **more)


def layered(*layers: alt.Chart, description: str, height: float, **more: Any) -> Chart:
    """One chart of several layers.

    Args:     description: the text alternative
              height: in pixels, axes and legends included
    """
    fit = alt.AutoSizeParams(type="fit", contains="padding")
    # Legends are arranged by the width before axes are subtracted.
    place = alt.VariableParameter(name="outer_width", expr="width", react=False)
    return Layers(
        layer=list(layers),
        description=description,
        height=height,
        autosize=fit,
        params=[place],
        **more,
    )


def themed(chart: Chart, theme: Theme = "light", **more: Any) -> Chart:
    """A copy of the chart with the colours and fonts of a theme and the properties `more`."""
    drawn = exchanged(chart, theme)
    drawn._kwds.update(config=exchanged(CONFIG, theme), **more)
    return drawn


def document(chart: Chart, theme: Theme = "light", **more: Any) -> dict[str, Any]:
    """The chart as Vega-Lite with its data, checked against its schema."""
    with alt.data_transformers.disable_max_rows():
        return themed(chart, theme, **more).to_dict(validate=True)


def exchanged(part: Any, theme: Theme) -> Any:
    """A copy of `part` in the colours of a theme. Tables are not copied."""
    if isinstance(part, Colour):
        return part.dark if theme == "dark" else str(part)
    if isinstance(part, alt.SchemaBase):
        # Its own copy() builds and checks a whole chart again, which takes 20 ms.
        copy = object.__new__(type(part))
        copy.__dict__.update(part.__dict__, _kwds=exchanged(part._kwds, theme))
        return copy
    if isinstance(part, dict):
        return {key: exchanged(value, theme) for key, value in part.items()}
    return [exchanged(v, theme) for v in part] if isinstance(part, list | tuple) else part


def description(chart: Chart) -> str:
    return str(chart.description)


def views(chart: Chart) -> list[Any]:
    """The layers of a chart, or the charts below each other."""
    return list(chart.layer if isinstance(chart, alt.LayerChart) else chart.vconcat)


def tables(chart: Chart) -> list[pa.Table]:
    """The distinct tables of the chart."""
    datas = (part.data for part in (chart, *views(chart)))
    return list({id(data): data for data in datas if isinstance(data, pa.Table)}.values())


def table(columns: Mapping[str, Any]) -> pa.Table:
    """A table whose numbers have 32 bits, because it is sent to the browser."""
    arrays = {name: pa.array(values) for name, values in columns.items()}
    narrow = {pa.float64(): pa.float32(), pa.int64(): pa.int32()}
    return pa.table({n: a.cast(narrow.get(a.type, a.type)) for n, a in arrays.items()})


def repeated(texts: Sequence[str], times: Sequence[int]) -> pa.Array:
    """A column that repeats each text `times`; it stores each text once."""
    encoded = pa.array(texts, pa.string()).dictionary_encode()
    rows = encoded.take(pa.array(np.repeat(np.arange(len(texts)), times)))
    return rows.cast(pa.dictionary(pa.int16(), pa.string()))


def field(column: str) -> str:
    """The name of a column, escaped for Vega-Lite."""
    return re.sub(r"([.\[\]\\'\"])", r"\\\1", column)


def number(channel: Callable[..., Channel], column: str, **more: Any) -> Channel:
    """Encodes a column of numbers."""
    return channel(field=field(column), type="quantitative", **({"title": column} | more))


def name(channel: Callable[..., Channel], column: str, **more: Any) -> Channel:
    """Encodes a column of names, in the order of the table."""
    return channel(field=field(column), type="nominal", **({"title": column} | more))


def scaled(
    channel: Callable[..., Channel], column: str, looks: Mapping[str, Any], key: Legend
) -> Channel:
    """Encodes a column of names by given colours, dashes or shapes, with a legend."""
    scale = alt.Scale(domain=list(looks), range=list(looks.values()))
    return name(channel, column, scale=scale, legend=key)


def drawn_as(column: str, looks: Mapping[str, Look], key: Legend) -> dict[str, Any]:
    """Encodes a column of names by the colours and dashes of lines."""
    colours = {name: look.colour for name, look in looks.items()}
    dashes = {name: list(look.dash) for name, look in looks.items()}
    return {
        "color": scaled(alt.Color, column, colours, key),
        "strokeDash": scaled(alt.StrokeDash, column, dashes, key),
    }


def legend(names: Iterable[str], symbol: str = "circle", orient: Any = "top") -> Legend:
    """A legend with as many columns as fit; None for a single name."""
    shown = list(names)
    if len(shown) < 2:
        return None
    widest = 36 + min(LABEL_PIXELS, 7 * max(map(len, shown)))
    columns = alt.ExprRef(f"max(1, floor((outer_width - 40) / {widest}))")
    size = 300 if symbol == "stroke" else 90
    return alt.Legend(
        title=None, values=shown, columns=columns, symbolType=symbol, symbolSize=size, orient=orient
    )


def tips(formats: Mapping[str, str]) -> list[alt.Tooltip]:
    """Tooltips of columns.

    Args:     formats: column -> d3 format of its numbers; empty: the column has names
    """
    return [
        number(alt.Tooltip, column, format=form) if form else name(alt.Tooltip, column)
        for column, form in formats.items()
    ]


def picker(column: str, key: Legend) -> alt.Parameter:
    """A selection by a click in the legend or, without a legend, on a mark."""
    return alt.selection_point(fields=[column], bind="legend" if key else alt.Undefined)


def opener(name: str = OPEN) -> alt.Parameter:
    """A click on a mark opens the run whose digest is in its column `digest`."""
    return alt.selection_point(name=name, fields=["digest"], on="click")


def zoom(*sides: Literal["x", "y"]) -> alt.Parameter:
    """Ranges of x, or of these sides, by dragging with a mouse or a pen; a finger scrolls."""
    drag = "[pointerdown[event.pointerType !== 'touch'], window:pointerup] > window:pointermove!"
    return alt.selection_interval(name=ZOOM, encodings=list(sides or ("x",)), on=drag)


def zoomed(chart: Chart, spans: Sequence[Span]) -> Chart:
    """A copy of the chart whose x axes show the first range, and y axes the second one, if any."""
    copy = exchanged(chart, "light")
    for part in views(copy):
        for side, (low, high) in zip(("x", "y"), spans, strict=False):
            axis = getattr(part.encoding, side)
            if axis is alt.Undefined or isinstance(axis, dict):
                continue
            scale = getattr(axis, "scale", alt.Undefined)
            old = scale.to_dict() if isinstance(scale, alt.Scale) else {}
            axis._kwds["scale"] = alt.Scale(**(old | {"domain": [low, high], "nice": False}))
            if getattr(part.encoding, f"{side}2") is not alt.Undefined or len(spans) > 1:
                continue  # a range may begin outside; y is not to fit where it was chosen
            column = axis["field"]  # axis.field would be altair's setter
            here = f"inrange(datum['{column}'], [{low}, {high}])"  # so that y fits
            before = [] if part.transform is alt.Undefined else part.transform
            part._kwds["transform"] = [alt.FilterTransform(here), *before]
    return copy


def lit(by: alt.Parameter, chosen: float, other: float, if_empty: bool = True) -> alt.OpacityValue:
    """The opacity of selected marks and of others.

    Args:     if_empty: whether an empty selection selects all
    """
    return alt.OpacityValue(other, condition={"param": by.name, "value": chosen, "empty": if_empty})


def spans(values: Iterable[float], factor: float = 10.0) -> bool:
    """Whether the ratio of the largest to the smallest positive value exceeds `factor`."""
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    return len(positive) > 1 and max(positive) > factor * min(positive)


def log_axis(values: Iterable[float], **scale: Any) -> dict[str, Any]:
    """Arguments of an encoding with a logarithmic scale and plain numbers at its ticks."""
    ticks = log_ticks([value for value in values if value > 0 and math.isfinite(value)])
    axis = alt.Axis(values=ticks, format="~g")
    return {"scale": alt.Scale(type="log", nice=False, **scale), "axis": axis}


def log_ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten around positive values, or only powers for a wide range."""
    if not values:
        return []
    low, high = math.log10(min(values)), math.log10(max(values))
    factors = FACTORS if high - low < MAX_DECADES else (1,)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    return [float(f"{factor}e{power}") for power in powers for factor in factors]


_TEXT = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
_TEXT |= {"labelColor": MUTED, "titleColor": MUTED, "labelLimit": LABEL_PIXELS}
_AXIS = {"gridColor": RULE, "domainColor": RULE, "ticks": False, "labelPadding": 6}
_LEGEND = {"orient": "top", "symbolStrokeWidth": 2, "rowPadding": 2, "columnPadding": 12}
CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,
    "view": {"stroke": None},
    "axis": _TEXT | _AXIS | {"titlePadding": 8, "labelOverlap": True, "labelSeparation": 8},
    "axisX": {"grid": False},
    "axisY": {"labelLimit": 160},
    "legend": _TEXT | _LEGEND,
    "text": {"color": INK, "fontSize": 12},
    "bar": {"discreteBandSize": {"band": 0.7}},
}
