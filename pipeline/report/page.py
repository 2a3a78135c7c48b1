"""What a report is made of: sections of blocks, which HTML and markdown both can show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from evenload.pipeline.charts.style import Chart

Tone = Literal["plain", "good", "warning", "bad"]


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Points(NamedTuple):
    """A list, with what it is a list of."""

    title: str
    items: Sequence[str]


class Answer(NamedTuple):
    """The sentence that a reader in a hurry takes away."""

    text: str
    tone: Tone = "good"


class Tile(NamedTuple):
    """One figure that stands for itself, with what it is and what to compare it with."""

    value: str
    name: str
    note: str = ""


class Tiles(NamedTuple):
    tiles: Sequence[Tile]


class Heat(NamedTuple):
    """A cell on a scale: 0 is as good as it gets, 1 as bad."""

    text: str
    badness: float


Cell = str | Heat


class Table(NamedTuple):
    """Columns named with a leading `<` are aligned to the left, others to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    marked: frozenset[int] = frozenset()  # rows to be seen first
    title: str = ""


class Figure(NamedTuple):
    """A chart; its text alternative is what markdown shows."""

    chart: Chart
    title: str = ""
    width: float = 420  # pixels, which it may shrink from and hardly grow


class Columns(NamedTuple):
    """Drawings or tables side by side where there is room."""

    blocks: Sequence[Figure | Table]


class Listing(NamedTuple):
    """Text to be copied as it is."""

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
