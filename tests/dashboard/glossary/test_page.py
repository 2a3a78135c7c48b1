from __future__ import annotations

from collections.abc import Callable

from streamlit.testing.v1 import AppTest

from evenload.dashboard.glossary.entries import GLOSSARY

Open = Callable[..., AppTest]


def _titles(page: AppTest) -> list[str]:
    shown = [str(text.value) for text in page.markdown]
    return [text.split("**")[1] for text in shown if text.startswith("**")]


def test_glossary_shows_every_metric_with_its_formula(open_page: Open) -> None:
    page = open_page("glossary")
    assert not page.exception
    assert _titles(page) == [entry.title for entry in GLOSSARY.values()]
    assert len(page.latex) == len(GLOSSARY)


def test_the_metric_of_the_address_comes_first_and_once(open_page: Open) -> None:
    page = open_page("glossary", metric="bias_drift")
    titles = _titles(page)
    assert titles[0] == GLOSSARY["bias_drift"].title
    assert len(titles) == len(GLOSSARY)


def test_search_finds_by_name_meaning_and_source(open_page: Open) -> None:
    page = open_page("glossary", find="2408.15664")
    assert GLOSSARY["max_vio"].title in _titles(page)
    assert GLOSSARY["grad_norm"].title not in _titles(page)
    assert "nonsense" in open_page("glossary", find="nonsense").info[0].value
