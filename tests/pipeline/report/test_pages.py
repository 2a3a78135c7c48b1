"""HTML and markdown of one page with every kind of block and text that looks like markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import get_args

import pytest
from jinja2 import UndefinedError

from evenload.pipeline.charts.bars import column_chart
from evenload.pipeline.report import markdown_page
from evenload.pipeline.report.html_page import html_page as to_html
from evenload.pipeline.report.markdown_page import markdown_page as to_markdown
from evenload.pipeline.report.page import (
    Answer,
    Block,
    Columns,
    Figure,
    Heat,
    Listing,
    Page,
    Points,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
)

EVIL = '<script>alert("1")</script>|`x`'
PAGE = Page(
    title=EVIL,
    subtitle=EVIL,
    sections=[
        Section(
            "First & last",
            [
                Answer(EVIL, "bad"),
                Text("Take `this`, <b>now</b>."),
                Points(EVIL, [EVIL, "two"]),
                Tiles([Tile("0.29", "MaxVio", EVIL)]),
                Table(
                    ("<name", "two\nlines"),
                    [("a|b", "1"), (EVIL, Heat("0.5", 0.5))],
                    EVIL,
                    frozenset({0}),
                    EVIL,
                ),
                Columns([Figure(column_chart([EVIL, "b"], [1, 2], EVIL, EVIL, EVIL), EVIL)]),
                Listing("a: ```\n<b>", EVIL),
            ],
        )
    ],
    footer="the end",
)


class Elements(HTMLParser):
    """The tags of a page with their attributes. Wrong nesting fails."""

    VOID = ("meta", "br", "img", "image")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_block_can_be_rendered() -> None:
    blocks = list(PAGE.sections[0].blocks)
    blocks += [part for block in blocks if isinstance(block, Columns) for part in block.blocks]
    assert {type(block) for block in blocks} == set(get_args(Block))
    assert all(markdown_page._block(block) for block in blocks)
    assert "undefined" not in to_html(PAGE)


def test_unknown_block_is_no_page() -> None:
    with pytest.raises(UndefinedError, match="NoneType"):
        to_html(Page("", "", [Section("s", [None])], ""))  # type: ignore[list-item]


def test_text_never_becomes_markup() -> None:
    page = Elements(to_html(PAGE))
    assert page.open == []
    tags = {tag for tag, _ in page.found}
    assert "script" not in tags
    assert "<script" not in to_markdown(PAGE)


def test_html_page_loads_nothing() -> None:
    text = to_html(PAGE)
    page = Elements(text)
    policies = [a["content"] for tag, a in page.found if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for tag, attributes in page.found:
        assert tag not in ("link", "iframe", "object", "img", "image")
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", text)


def test_links_lead_to_their_sections() -> None:
    page = Elements(to_html(PAGE))
    links = [attributes["href"] for tag, attributes in page.found if tag == "a"]
    assert links == ["#first-last"]
    assert [a["id"] for tag, a in page.found if tag == "section"] == ["first-last"]


def test_cells_are_escaped() -> None:
    lines = [line for line in to_markdown(PAGE).splitlines() if line.startswith("|")]
    tables = [line for line in lines if "two lines" in line or "a\\|b" in line]
    assert tables == ["| name | two lines |", "| **a\\|b** | **1** |"]
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[-4:]}
    assert widths == {3}


def test_fence_of_a_listing_is_longer_than_fences_in_its_text() -> None:
    assert "````\na: ```\n<b>\n````" in to_markdown(PAGE)


def test_colours_run_from_good_to_bad() -> None:
    def colour(badness: float) -> list[int]:
        table = Table(("x",), [(Heat("1", badness),)])
        page = to_html(Page("", "", [Section("s", [table])], ""))
        return [int(n) for n in re.findall(r"rgb\((\d+),(\d+),(\d+)\)", page)[0]]

    good, middling, bad = colour(0), colour(0.5), colour(1)
    assert sum(good) > sum(middling) > sum(bad)  # they differ in lightness
    assert colour(-1) == good
    assert colour(7) == bad
