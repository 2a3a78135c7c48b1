"""Renders a page as one self-contained HTML file without scripts and fonts."""

import re

import jinja2
from markupsafe import Markup, escape

from evenload.pipeline.charts.static import to_svg
from evenload.pipeline.charts.style import description
from evenload.pipeline.report.page import Page

GOOD, MIDDLING, BAD = (230, 242, 238), (242, 217, 166), (226, 138, 84)


def html_page(page: Page) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evenload.pipeline.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "anchor": _anchor,
        "description": description,
        "heat": _heat,
        "inline": _inline,
        "kind": lambda block: type(block).__name__,
        "svg": lambda figure: Markup(to_svg(figure.chart, figure.width)),
    }
    return environment.get_template("page.html.jinja").render(page=page)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _heat(badness: float) -> str:
    """From green over sand to orange. They differ in lightness, for print and colour blindness."""
    share = min(1.0, max(0.0, badness))
    low, high, part = (GOOD, MIDDLING, 2 * share) if share < 0.5 else (MIDDLING, BAD, 2 * share - 1)
    mixed = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _inline(text: str) -> Markup:
    """Text in backticks becomes code, like in markdown."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
