"""The terminal shows hostile text as it is: no markup, no control character, no crash."""

from __future__ import annotations

import io
import re

from rich.table import Table
from rich.text import Text

from evenload.workers.cli.progress import progress_bars
from evenload.workers.cli.session import PlainConsole
from tests.pipeline.test_escaping import TEXTS

OWN = re.compile(r"\x1b\[[\d;]*m")  # the colours of rich


def test_text_tables_and_bars_show_what_they_are_given() -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, force_terminal=True, color_system="standard")
    table = Table("part", title="[/]")
    for text in TEXTS:
        console.print(text)
        console.print(Text(text, "red"), text, soft_wrap=True)
        table.add_row(text)
    console.print(table)
    bars = progress_bars(console)
    for text in TEXTS[:50]:
        bars.add_task(text, total=1, note=text)
    console.print(bars)
    shown = OWN.sub("", file.getvalue())
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
    assert "[bold]" in shown
    assert "[/]" in shown
