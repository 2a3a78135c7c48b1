"""The parts of a report: sections of blocks that can be rendered as HTML and as markdown."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from evenload.pipeline.charts.style import Chart

Tone = Literal["plain", "good", "warning", "bad"]


class Text(NamedTuple):
    text: str


class Points(NamedTuple):
    title: str
    items: Sequence[str]


class Answer(NamedTuple):
    """The main result in one sentence."""

    text: str
    tone: Tone = "good"


class Tile(NamedTuple):
    value: str
    name: str
    note: str = ""


class Tiles(NamedTuple):
    tiles: Sequence[Tile]


class Heat(NamedTuple):
    """A coloured cell; the scale runs from 0, the best, to 1, the worst."""

    text: str
    badness: float


Cell = str | Heat


class Table(NamedTuple):
    """A table. Columns whose name begins with `<` are aligned to the left, others to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    marked: frozenset[int] = frozenset()  # numbers of the highlighted rows
    title: str = ""


class Figure(NamedTuple):
    """A chart. Markdown shows its description."""

    chart: Chart
    title: str = ""
    width: float = 420  # in pixels; it shrinks on narrow screens


class Columns(NamedTuple):
    """Figures or tables side by side if there is room."""

    blocks: Sequence[Figure | Table]


class Listing(NamedTuple):
    text: str
    title: str = ""


Block = Text | Points | Answer | Tiles | Table | Figure | Columns | Listing


class Section(NamedTuple):
    title: str
    blocks: Sequence[Block]


class Page(NamedTuple):
    title: str
    subtitle: str
    sections: Sequence[Section]
    footer: str


def filled(table: Table) -> Table | None:
    """The table; None if it has no rows."""
    return table if table.rows else None


def present(*blocks: Block | None) -> list[Block]:
    """Those blocks that are not None."""
    return [block for block in blocks if block is not None]
