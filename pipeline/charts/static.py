"""Renders charts as SVG without scripts, fonts and network access."""

import hashlib
import re
from html import escape

import vl_convert

from evenload.pipeline.charts.style import Chart, Theme, description, document

MAX_ZOOM = 1.2  # how much larger than its width a picture may become


def to_svg(chart: Chart, width: float, theme: Theme = "light") -> str:
    """Inline SVG that adapts to the width of its container, with a description for screen readers.

    Args:     width: in pixels, before scaling
    """
    drawing = document(chart, theme, width=width)
    drawing["config"]["aria"] = False  # screen readers must not read every mark
    drawn = vl_convert.vegalite_to_svg(drawing)
    drawn = re.sub(r"<[^>]+>", _rounded, drawn)
    # The pictures of a page must not share the ids of their gradients and clips.
    prefix = f"c{hashlib.sha256(drawn.encode()).hexdigest()[:8]}-"
    drawn = re.sub(r'(\bid="|url\(#)', rf"\g<1>{prefix}", drawn)
    drawn = drawn.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    label = escape(description(chart))
    root = f'role="img" aria-label="{label}" style="max-width:{MAX_ZOOM * width:g}px"'
    return re.sub(r' width="[\d.]+" height="[\d.]+"', f" {root}", drawn, count=1)


def _rounded(tag: re.Match[str]) -> str:
    """Rounds coordinates to a hundredth of a pixel, which makes a map three times smaller."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag[0])
