"""Hostile text is shown and does nothing, in every sink. The sinks are real ones."""

from __future__ import annotations

import csv
import io
import logging
import random
import re
from collections.abc import Iterator

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from evenload.dashboard.exports import FORMATS
from evenload.pipeline.escaping import for_chat, for_log, for_markdown
from evenload.pipeline.exporter import progress
from evenload.pipeline.redaction import RedactingFormatter
from evenload.pipeline.report.html_page import html_page
from evenload.pipeline.report.markdown_page import markdown_page
from evenload.pipeline.report.page import (
    Answer,
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
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import Progress
from tests.pipeline.sweep.trial_records import completed_trial

BITES = (
    "![x](http://evil/a.png)",
    "[x](javascript:alert(1))",
    "[x]: http://evil",
    "<img src=http://evil onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</pre></td>",
    "`", "``", "```", "\\", "|", "\n", "\r", "\t", "\x1b[2J", "\x9b31m", "\u202e", "\x07", "\x00",
    "[bold]", "[/]", "[red", ":material/error:", ":red[x]", "$x$", "*a*", "# ", "=1+1",
    "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "a", " ", "'", '"', "{{ 7 * 7 }}", "%s", "{0}",
)  # fmt: skip
DANGEROUS = re.compile(r"<(img|script|a|iframe|svg|td|pre)\b", re.IGNORECASE)


def hostile(count: int) -> list[str]:
    draw = random.Random(8)
    return [*BITES, *("".join(draw.choices(BITES, k=draw.randint(2, 5))) for _ in range(count))]


TEXTS = hostile(400)
markdown = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def test_markdown_renders_no_image_no_link_and_no_html() -> None:
    for text in TEXTS:
        for page in (
            for_markdown(text),
            f"**{for_markdown(text)}**",
            f"a `b` {for_markdown(text)}",
        ):
            rendered = markdown.render(page)
            assert not DANGEROUS.search(rendered.replace("<pre><code>", "")), (text, rendered)


def test_markdown_keeps_commands_in_backticks_and_plain_text() -> None:
    told = "num_experts=3: use `evenload sweep run A[0]`; at most -0.5 of a_b, see a.b (c)!"
    assert for_markdown(told) == told


@pytest.fixture(scope="module")
def page() -> Page:
    """A report with every hostile text in every kind of block."""
    some = TEXTS[:120]
    blocks = [
        *(block for text in some[:40] for block in (Text(text), Answer(text))),
        Points(some[1], some),
        Tiles([Tile(text, text, text) for text in some]),
        Table(some[:5], [(text, text, Heat(text, 0.5), text, text) for text in some], some[3]),
        *(Listing(text, text) for text in some[:40]),
    ]
    return Page(TEXTS[0], TEXTS[1], [Section(TEXTS[3], blocks)], "evenload")


def test_a_report_in_html_has_no_tag_and_no_attribute_of_a_user(page: Page) -> None:
    text = html_page(page)
    assert not re.search(r"<(img|script|iframe)\b|<[^>]*\sonerror|<[^>]*javascript:", text)
    assert text.count("<pre>") == 40


def test_a_report_in_markdown_has_no_image_and_no_link(page: Page) -> None:
    rendered = markdown.render(markdown_page(page))
    assert not re.search(r"<(img|script|a|iframe)\b", rendered)
    assert "\x1b" not in rendered


def test_no_cell_of_a_csv_file_begins_a_formula_and_numbers_stay() -> None:
    table = pd.DataFrame({"=1+1": TEXTS, "number": [-0.5] * len(TEXTS), "text": "-0.5"})
    text = FORMATS["csv"].written(lambda: table).decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == len(TEXTS) + 1
    assert {row[1] for row in rows[1:]} == {"-0.5"}
    assert {row[2] for row in rows[1:]} == {"-0.5"}
    for cell in (rows[0][0], *(row[0] for row in rows[1:])):
        assert not re.match(r"\s*[=@|%]|\s*[+-](?!1\s*$)", cell), cell


def test_a_log_record_is_one_line_without_control_characters() -> None:
    formatter = RedactingFormatter("%(levelname)s %(message)s", Settings())
    for text in TEXTS:
        record = logging.LogRecord("x", logging.INFO, "", 0, "told: %s", (text,), None)
        line = formatter.format(record)
        assert re.fullmatch(r"INFO told: [^\x00-\x08\x0a-\x1f\x7f-\x9f\u202e]*", line), line


def test_labels_of_prometheus_hold_the_text_on_one_line() -> None:
    now = Progress(1, 2, 3, 0.5, 0.1, 9.0)
    spec = {"model": {"num_experts": 4}}
    trials = [
        completed_trial(f"t{n}", text, spec, 1.0, 0.1, progress=now) for n, text in enumerate(TEXTS)
    ]

    class Some(Collector):
        def collect(self) -> Iterator[Metric]:
            return progress(trials)

    registry = CollectorRegistry()
    registry.register(Some())
    families = text_string_to_metric_families(generate_latest(registry).decode())
    rules = {
        one.labels["trial"]: one.labels["rule"] for family in families for one in family.samples
    }
    assert rules == {f"t{n}": for_log(text) for n, text in enumerate(TEXTS)}


def test_a_chat_finds_neither_mentions_nor_links() -> None:
    assert for_chat("<!channel> & <http://evil|here>\x07") == (
        "&lt;!channel&gt; &amp; &lt;http://evil|here&gt;\N{REPLACEMENT CHARACTER}"
    )
