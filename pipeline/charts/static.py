"""A chart as a picture that needs no script, no font and no network."""

from __future__ import annotations

import hashlib
import re
from html import escape

import vl_convert

from evenload.pipeline.charts.style import Chart, Theme, document, says

MAX_ZOOM = 1.2  # a picture alone in a wide place must not shout


def to_svg(chart: Chart, width: float, theme: Theme = "light") -> str:
    """Inline SVG that scales with its place and is named for readers that cannot see it.

    Args:     width: in pixels, before it is scaled
    """
    drawing = document(chart, theme, width=width)
    drawing["config"]["aria"] = False  # marks are not read out one by one
    drawn = vl_convert.vegalite_to_svg(drawing)
    drawn = re.sub(r"<[^>]+>", _rounded, drawn)
    # Several pictures of one page must not share the names of their gradients and clips.
    prefix = f"c{hashlib.sha256(drawn.encode()).hexdigest()[:8]}-"
    drawn = re.sub(r'(\bid="|url\(#)', rf"\g<1>{prefix}", drawn)
    drawn = drawn.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    root = f'role="img" aria-label="{escape(says(chart))}" style="max-width:{MAX_ZOOM * width:g}px"'
    return re.sub(r' width="[\d.]+" height="[\d.]+"', f" {root}", drawn, count=1)


def _rounded(tag: re.Match[str]) -> str:
    """Coordinates of a hundredth of a pixel: a map is a third of its size then."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag[0])
