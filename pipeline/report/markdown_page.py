"""Renders a page as markdown, with descriptions in place of the charts."""

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from evenload.pipeline.charts.style import description
from evenload.pipeline.escaping import for_markdown, for_terminal
from evenload.pipeline.report.page import (
    Answer,
    Block,
    Cell,
    Columns,
    Figure,
    Heat,
    Listing,
    Page,
    Points,
    Section,
    Table,
    Text,
    Tiles,
)


def markdown_page(page: Page) -> str:
    sections = "\n\n".join(map(_section, page.sections))
    return (
        f"# {_plain(page.title)}\n\n{_plain(page.subtitle)}\n\n{sections}\n\n---\n\n{page.footer}\n"
    )


def _section(section: Section) -> str:
    return "\n\n".join([f"## {_plain(section.title)}", *map(_block, section.blocks)])


def _block(block: Block) -> str:
    return RENDERERS[type(block)](block)


def _text(block: Text) -> str:
    return _plain(block.text)


def _points(block: Points) -> str:
    items = "\n".join(f"- {_plain(item)}" for item in block.items)
    return f"{_title(block.title)}\n\n{items}".strip()


def _answer(block: Answer) -> str:
    return f"> **{_plain(block.text)}**"


def _tiles(block: Tiles) -> str:
    rows = [(tile.name, tile.value, tile.note) for tile in block.tiles]
    return _grid(("<figure", "value", "<"), rows)


def _table(block: Table) -> str:
    table = _grid(block.columns, block.rows, block.marked)
    parts = [_title(block.title), table, _plain(block.note)]
    return "\n\n".join(part for part in parts if part)


def _figure(block: Figure) -> str:
    return "\n\n".join(
        part for part in (_title(block.title), f"*{_plain(description(block.chart))}*") if part
    )


def _columns(block: Columns) -> str:
    return "\n\n".join(map(_block, block.blocks))


def _listing(block: Listing) -> str:
    longest = max((len(run) for run in re.findall("`+", block.text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{_title(block.title)}\n\n{fence}\n{for_terminal(block.text)}\n{fence}".strip()


def _grid(
    columns: Sequence[str], rows: Sequence[Sequence[Cell]], marked: Collection[int] = ()
) -> str:
    names = [" ".join(name.removeprefix("<").split()) for name in columns]
    rule = "|".join(":---" if name.startswith("<") else "---:" for name in columns)
    lines = [f"| {' | '.join(_escaped(name) for name in names)} |", f"|{rule}|"]
    for number, row in enumerate(rows):
        cells = [_escaped(_cell(cell)) for cell in row]
        if number in marked:
            cells = [cell and f"**{cell}**" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    return cell.text if isinstance(cell, Heat) else cell


def _escaped(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text on one line without markup."""
    return for_markdown(" ".join(text.split()))


def _title(title: str) -> str:
    return f"### {_plain(title)}" if title else ""


RENDERERS: dict[type[Any], Callable[[Any], str]] = {
    Text: _text,
    Points: _points,
    Answer: _answer,
    Tiles: _tiles,
    Table: _table,
    Figure: _figure,
    Columns: _columns,
    Listing: _listing,
}
