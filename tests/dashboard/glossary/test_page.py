from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

from streamlit.testing.v1 import AppTest

import evenload.dashboard
from evenload.pipeline.figures.metrics import METRICS

ROOM = Path(str(evenload.dashboard.__file__)).parent
Open = Callable[..., AppTest]


def _titles(page: AppTest) -> list[str]:
    shown = [str(text.value) for text in page.markdown]
    return [text.split("**")[1] for text in shown if text.startswith("**")]


def test_glossary_shows_every_metric_with_its_formula(open_page: Open) -> None:
    page = open_page("glossary")
    assert not page.exception
    assert _titles(page) == [entry.title for entry in METRICS.values()]
    assert len(page.latex) == len(METRICS)


def test_metric_in_the_address_comes_first_and_only_once(open_page: Open) -> None:
    page = open_page("glossary", metric="bias_drift")
    titles = _titles(page)
    assert titles[0] == METRICS["bias_drift"].title
    assert len(titles) == len(METRICS)


def test_search_finds_by_name_meaning_and_source(open_page: Open) -> None:
    page = open_page("glossary", find="2408.15664")
    assert METRICS["max_vio"].title in _titles(page)
    assert METRICS["grad_norm"].title not in _titles(page)
    assert "nonsense" in open_page("glossary", find="nonsense").info[0].value


def test_every_card_links_to_an_existing_metric() -> None:
    linked = [
        str(ast.literal_eval(keyword.value))
        for path in ROOM.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "metric" and isinstance(keyword.value, ast.Constant)
    ]
    assert len(linked) > 20
    assert {*linked} <= METRICS.keys()
