"""Renders a page as markdown, with descriptions in place of the charts."""

import re
from collections.abc import Collection, Sequence

from evenload.pipeline.charts.style import description
from evenload.pipeline.escaping import for_markdown, for_terminal
from evenload.pipeline.report import page as parts
from evenload.pipeline.report.page import Block, Cell


def markdown_page(page: parts.Page) -> str:
    sections = "\n\n".join(map(_section, page.sections))
    return (
        f"# {_plain(page.title)}\n\n{_plain(page.subtitle)}\n\n{sections}\n\n---\n\n{page.footer}\n"
    )


def _section(section: parts.Section) -> str:
    return "\n\n".join([f"## {_plain(section.title)}", *map(_block, section.blocks)])


def _block(block: Block) -> str:
    match block:
        case parts.Text(text):
            return _plain(text)
        case parts.Points(title, items):
            points = "\n".join(f"- {_plain(item)}" for item in items)
            return _joined(_title(title), points)
        case parts.Answer(text):
            return f"> **{_plain(text)}**"
        case parts.Tiles(tiles):
            rows = [(tile.name, tile.value, tile.note) for tile in tiles]
            return _grid(("<figure", "value", "<"), rows)
        case parts.Table():
            return _table(block)
        case parts.Figure(chart, title):
            return _joined(_title(title), f"*{_plain(description(chart))}*")
        case parts.Columns(blocks):
            return "\n\n".join(map(_block, blocks))
        case parts.Listing(text, title):
            longest = max((len(run) for run in re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return _joined(_title(title), f"{fence}\n{for_terminal(text)}\n{fence}")


def _table(block: parts.Table) -> str:
    table = _grid(block.columns, block.rows, block.marked)
    return _joined(_title(block.title), table, _plain(block.note))


def _joined(*paragraphs: str) -> str:
    return "\n\n".join(filter(None, paragraphs))


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
    return cell.text if isinstance(cell, parts.Heat) else cell


def _escaped(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Text on one line without markup."""
    return for_markdown(" ".join(text.split()))


def _title(title: str) -> str:
    return f"### {_plain(title)}" if title else ""
