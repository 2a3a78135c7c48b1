"""Renders a page as one self-contained HTML file without scripts and fonts."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from evenload.pipeline.charts.static import to_svg
from evenload.pipeline.charts.style import description
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

# Browsers load nothing from elsewhere.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
SHORT = 28  # cells with at most this many characters are not wrapped
GOOD, MIDDLING, BAD = (230, 242, 238), (242, 217, 166), (226, 138, 84)

STYLE = """
:root { color-scheme: light; --ink: #1f2933; --muted: #5b6773; --rule: #e3e8ee; --accent: #2b6cb0 }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 40px 32px 64px; max-width: 1120px; background: #fff;
  color: var(--ink); font: 15px/1.55 "Source Sans 3", "Segoe UI", system-ui, sans-serif }
header { border-bottom: 2px solid var(--ink); margin-bottom: 28px }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px }
h2 { font-size: 20px; margin: 44px 0 12px; padding-bottom: 4px;
  border-bottom: 1px solid var(--rule) }
h3 { font-size: 14px; margin: 18px 0 6px }
p { margin: 8px 0; max-width: 78ch }
ul { margin: 4px 0 10px; padding-left: 20px; max-width: 78ch } li { margin: 3px 0 }
code { font: 0.9em ui-monospace, "DejaVu Sans Mono", monospace; background: #f4f6f9;
  padding: 1px 4px; border-radius: 4px }
.subtitle { color: var(--muted); margin: 0 0 14px; max-width: none }
nav { font-size: 14px; margin: -14px 0 0 } nav a { margin-right: 16px; color: var(--accent);
  text-decoration: none; display: inline-block }
.answer { border-left: 5px solid #0f8a6d; background: #f1f8f5; padding: 12px 16px; font-size: 17px;
  max-width: none; margin: 12px 0 }
.answer.warning { border-color: #b7791f; background: #fdf6e7 }
.answer.bad { border-color: #c2410c; background: #fdf0ea }
.answer.plain { border-color: var(--accent); background: #eff5fb }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 16px 0 }
.tile { border: 1px solid var(--rule); border-radius: 6px; padding: 10px 14px }
.tile b { display: block; font-size: 20px; line-height: 1.35; font-weight: 600;
  white-space: nowrap }
.tile span { display: block; font-size: 13px } .tile small { color: var(--muted); font-size: 12px }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums;
  margin: 8px 0 }
th { text-align: right; vertical-align: bottom; color: var(--muted); font-weight: 600;
  border-bottom: 1px solid #b9c3ce; padding: 4px 6px; white-space: pre-line }
td { text-align: right; padding: 4px 6px; border-bottom: 1px solid var(--rule) }
td:not(.left), td.short { white-space: nowrap }
th.left, td.left { text-align: left } td.left { overflow-wrap: break-word }
td.heat { text-align: center; border: 2px solid #fff; min-width: 64px }
tr.marked td:not(.heat) { background: #eff5fb; font-weight: 600 }
.note, figcaption { color: var(--muted); font-size: 13px; margin: 4px 0 10px; max-width: 88ch }
figure { margin: 8px 0 } figure svg { display: block; width: 100%; height: auto }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(310px, 1fr));
  gap: 8px 28px }
.columns > * { min-width: 0 }
pre { background: #f4f6f9; border: 1px solid var(--rule); border-radius: 6px; padding: 10px 14px;
  font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere }
footer { margin-top: 48px; padding-top: 8px; border-top: 1px solid var(--rule); color: var(--muted);
  font-size: 13px }
@media print {
  @page { size: A4; margin: 14mm 12mm }
  body { padding: 0; max-width: none; font-size: 10.5pt }
  nav { display: none } figure svg { max-width: 440px !important }
  h2 { margin-top: 22px } h2, h3 { break-after: avoid }
  table { font-size: 8.5pt } th, td { padding: 2px 6px } .scroll { overflow: visible }
  figure, .tiles, .answer, tr, .columns > div { break-inside: avoid }
  thead { display: table-header-group }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact }
}
"""


def html_page(page: Page) -> str:
    links = "".join(
        f'<a href="#{_anchor(section.title)}">{escape(section.title)}</a>'
        for section in page.sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f'<header><h1>{escape(page.title)}</h1><p class="subtitle">{escape(page.subtitle)}</p>'
        f"</header>\n<nav>{links}</nav>\n<main>"
        + "\n".join(map(_section, page.sections))
        + f"</main>\n<footer>{escape(page.footer)}</footer>\n</body></html>\n"
    )


def _section(section: Section) -> str:
    blocks = "\n".join(map(_block, section.blocks))
    title = escape(section.title)
    return f'<section id="{_anchor(section.title)}"><h2>{title}</h2>\n{blocks}</section>'


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _block(block: Block) -> str:
    return RENDERERS[type(block)](block)


def _text(block: Text) -> str:
    return f"<p>{_inline(block.text)}</p>"


def _points(block: Points) -> str:
    items = "".join(f"<li>{_inline(item)}</li>" for item in block.items)
    return f"{_title(block.title)}<ul>{items}</ul>"


def _answer(block: Answer) -> str:
    return f'<p class="answer {block.tone}">{escape(block.text)}</p>'


def _tiles(block: Tiles) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{escape(tile.value)}</b><span>{escape(tile.name)}</span>'
        f"<small>{escape(tile.note)}</small></div>"
        for tile in block.tiles
    )
    return f'<div class="tiles">{tiles}</div>'


def _table(block: Table) -> str:
    is_left = [name.startswith("<") for name in block.columns]
    head = "".join(
        f"<th{_left(left)}>{escape(name.removeprefix('<'))}</th>"
        for name, left in zip(block.columns, is_left, strict=True)
    )
    body = "".join(
        f"<tr{' class=marked' if number in block.marked else ''}>"
        + "".join(_cell(cell, left) for cell, left in zip(row, is_left, strict=True))
        + "</tr>"
        for number, row in enumerate(block.rows)
    )
    return (
        f'{_title(block.title)}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{_note(block.note)}"
    )


def _cell(cell: Cell, left: bool) -> str:
    if isinstance(cell, Heat):
        return f'<td class="heat" style="background:{_heat(cell.badness)}">{escape(cell.text)}</td>'
    short = " short" if len(cell) <= SHORT else ""
    return f'<td class="{"left" if left else "right"}{short}">{escape(cell)}</td>'


def _heat(badness: float) -> str:
    """From green over sand to orange. They differ in lightness, for print and colour blindness."""
    share = min(1.0, max(0.0, badness))
    low, high, part = (GOOD, MIDDLING, 2 * share) if share < 0.5 else (MIDDLING, BAD, 2 * share - 1)
    mixed = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return f"rgb({','.join(map(str, mixed))})"


def _figure(block: Figure) -> str:
    caption = f"<figcaption>{escape(description(block.chart))}</figcaption>"
    return f"<figure>{_title(block.title)}{to_svg(block.chart, block.width)}{caption}</figure>"


def _columns(block: Columns) -> str:
    parts = "".join(f"<div>{_block(part)}</div>" for part in block.blocks)
    return f'<div class="columns">{parts}</div>'


def _listing(block: Listing) -> str:
    return f"{_title(block.title)}<pre>{escape(block.text)}</pre>"


def _inline(text: str) -> str:
    """Text in backticks becomes code, like in markdown."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _left(left: bool) -> str:
    return ' class="left"' if left else ""


def _title(title: str) -> str:
    return f"<h3>{escape(title)}</h3>" if title else ""


def _note(note: str) -> str:
    return f'<p class="note">{_inline(note)}</p>' if note else ""


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
