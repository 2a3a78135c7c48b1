"""Drawing in SVG with few functions: elements, scales with round ticks, maps of cells."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

INK, MUTED, RULE = "#1f2933", "#5b6773", "#e3e8ee"
ACCENT, GREY, WARNING = "#2b6cb0", "#7d8893", "#c2410c"
ROUND = (1, 2, 5, 10)
MAX_ZOOM = 1.2  # a drawing alone in a wide place must not shout


def element(name: str, content: str = "", **attributes: Any) -> str:
    """One element. Attribute names take `_` for `-`; floats are cut to two decimals."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
    )
    return f"<{name}{said}>{content}</{name}>" if content else f"<{name}{said}/>"


def text(content: str, x: float, y: float, **attributes: Any) -> str:
    style = {"font_size": 12, "fill": INK} | attributes
    return element("text", escape(content), x=x, y=y, **style)


def tip(content: str) -> str:
    """Shown where a pointer rests on the element that holds it."""
    return element("title", escape(content))


def drawing(content: str, width: float, height: float, says: str) -> str:
    """A whole drawing that scales with its place, named for readers that cannot see it."""
    return element(
        "svg",
        content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=says,
        style=f"max-width:{MAX_ZOOM * width:g}px",
    )


class Scale(NamedTuple):
    """Values to positions, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        share = (self._bent(value) - self._bent(self.low)) / (
            self._bent(self.high) - self._bent(self.low)
        )
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the range, about `count` of them."""
        if self.is_log:
            return _log_ticks(self.low, self.high)
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * size for size in ROUND if power * size >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]

    def _bent(self, value: float) -> float:
        return math.log10(value) if self.is_log else value


def scale_over(
    values: Sequence[float], start: float, end: float, *, margin: float = 0.08, is_log: bool = False
) -> Scale:
    """A scale that shows all values with some air around them; also where they are all alike."""
    low, high = min(values), max(values)
    if is_log:
        stretch = max((high / low) ** margin, 1.15)
        return Scale(low / stretch, high * stretch, start, end, is_log=True)
    air = (high - low) * margin or abs(high) * margin or 1.0
    return Scale(low - air, high + air, start, end)


def tick_label(value: float) -> str:
    return f"{value:.4g}"


def x_axis(scale: Scale, y: float, top: float, title: str) -> str:
    """Ticks below `y`, faint lines up to `top`, a title in the middle."""
    parts = []
    for value in scale.ticks():
        x = scale.at(value)
        parts.append(element("line", x1=x, x2=x, y1=y, y2=top, stroke=RULE))
        parts.append(text(tick_label(value), x, y + 16, text_anchor="middle", fill=MUTED))
    middle = (scale.start + scale.end) / 2
    parts.append(text(title, middle, y + 34, text_anchor="middle", fill=MUTED))
    return "".join(parts)


def y_axis(scale: Scale, x: float, right: float, title: str) -> str:
    """Ticks left of `x`, faint lines to `right`, a title above."""
    parts = []
    for value in scale.ticks():
        y = scale.at(value)
        parts.append(element("line", x1=x, x2=right, y1=y, y2=y, stroke=RULE))
        parts.append(text(tick_label(value), x - 6, y + 4, text_anchor="end", fill=MUTED))
    parts.append(text(title, x, min(scale.start, scale.end) - 10, fill=MUTED))
    return "".join(parts)


def cells(colour_YX3: NDArray[np.uint8], x: float, y: float, width: float, height: float) -> str:
    """A map with one colour a cell, drawn without smoothing."""
    encoded = base64.b64encode(png(colour_YX3)).decode()
    return element(
        "image",
        x=x,
        y=y,
        width=width,
        height=height,
        preserveAspectRatio="none",
        style="image-rendering:pixelated",
        href=f"data:image/png;base64,{encoded}",
    )


def png(colour_YX3: NDArray[np.uint8]) -> bytes:
    """8-bit RGB.  Source: PNG specification, third edition, sections 5 and 11."""
    height, width, _ = colour_YX3.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row starts with filter type 0
    rows[:, 1:] = colour_YX3.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    chunks = ((b"IHDR", header), (b"IDAT", body), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [size * 10.0**power for power in powers for size in ROUND[:3]]
    return [value for value in ticks if low <= value <= high]


def _value(value: Any) -> str:
    return (
        f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else escape(str(value))
    )
