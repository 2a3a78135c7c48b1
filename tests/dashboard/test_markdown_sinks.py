"""Every text of a user that a page passes to something that reads markdown is escaped."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from evenload.pipeline.escaping import for_markdown

PAGES = Path(__file__).resolve().parents[2] / "dashboard"
# The calls of streamlit whose first argument, or whose label, is markdown.
SINKS = {
    "markdown", "caption", "info", "warning", "error", "success", "title", "header", "subheader",
    "toast", "expander", "popover", "badge", "metric", "page_link", "progress", "write",
}  # fmt: skip
# What makes text that no user chose, or escapes it.
SAFE_CALLS = {
    "for_markdown",
    "_chips",
    "scaled",
    "len",
    "counted",
    "duration",
    "ago",
    "what_follows",
    "basis",
    "number",
}
# Names and attributes that hold text of this project; ids of sweeps and digests have a pattern.
SAFE_NAMES = {
    "sweep_id", "digest", "spec.name", "state.text", "check.part", "check.level", "trial.attempt",
    "trial.digest", "attempt", "verb.label", "verb.question", "cost_queries.LAST_STEPS", "label",
    "controls.REMEDY", "when", "status.share", "nothing", "plan.ranks", "tables.MOST_RUNS",
    "MAX_FAILURES", "better", "names", "rows", "name", "shown",
}  # fmt: skip


def sinks() -> Iterator[tuple[str, ast.expr]]:
    for path in sorted(PAGES.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = ast.unparse(node.func.value)
            if node.func.attr in SINKS and owner not in ("logger", "parser", "self"):
                texts = {"metric": node.args[:2], "page_link": []}.get(
                    node.func.attr, node.args[:1]
                )
                named = [one.value for one in node.keywords if one.arg in ("label", "text")]
                for text in (*texts, *named):
                    yield f"{path.relative_to(PAGES)}:{node.lineno}", text


def unsafe(text: ast.expr) -> list[str]:
    """The parts of the expression that may hold text of a user."""
    if isinstance(text, ast.Constant):
        return []
    if isinstance(text, ast.JoinedStr):
        values = [part for part in text.values if isinstance(part, ast.FormattedValue)]
        return [bad for part in values if not part.format_spec for bad in unsafe(part.value)]
    if isinstance(text, ast.IfExp):
        return unsafe(text.body) + unsafe(text.orelse)
    if isinstance(text, ast.BoolOp):
        return [bad for value in text.values for bad in unsafe(value)]
    if isinstance(text, ast.BinOp):
        return unsafe(text.left) + unsafe(text.right)
    if isinstance(text, ast.Call):
        name = ast.unparse(text.func)
        if name.startswith("metric."):  # the table of this project
            return []
        if name.endswith(".join"):
            (joined,) = text.args
            element = joined.elt if isinstance(joined, ast.GeneratorExp) else joined
            return unsafe(element)
        if name == "map":
            return unsafe(ast.Call(text.args[0], [], []))
        return [] if name.rpartition(".")[2] in SAFE_CALLS else [ast.unparse(text)]
    written = ast.unparse(text)
    return [] if written in SAFE_NAMES or written.startswith("metric.") else [written]


def test_no_page_passes_text_of_a_user_to_markdown_unescaped() -> None:
    found = list(sinks())
    assert len(found) > 60
    bad = {where: parts for where, text in found if (parts := unsafe(text))}
    assert bad == {}


@pytest.mark.parametrize(
    "planted",
    [
        'f"{sweep.note}"',
        "trial.error",
        "str(error)",
        "' '.join(reasons)",
        "', '.join(map(name, runs))",
    ],
)
def test_the_check_finds_text_that_is_not_escaped(planted: str) -> None:
    (statement,) = ast.parse(planted).body
    assert isinstance(statement, ast.Expr)
    assert unsafe(statement.value)


def _page(text: str) -> None:
    import streamlit as st

    from evenload.dashboard.page_parts import readable_errors
    from evenload.pipeline.errors import SpecError

    st.title("page")
    with readable_errors():
        raise SpecError(text)


def test_an_error_with_an_image_is_shown_as_text() -> None:
    text = "name=![x](http://evil/a.png): use `evenload`"
    page = AppTest.from_function(_page, kwargs={"text": text}).run()
    assert page.warning[0].value == for_markdown(text)
    assert "\\[x\\](" in page.warning[0].value
