from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenload.dashboard import page_parts
from evenload.pipeline.errors import SpecError, StoreUnavailable


@pytest.fixture
def refreshes(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The `run_every` of each fragment that is drawn."""
    asked: list[float | None] = []

    def fragment(run_every: float | None = None) -> Callable[[Any], Any]:
        asked.append(run_every)
        return lambda body: body

    monkeypatch.setattr(page_parts.st, "fragment", fragment)
    return asked


def test_what_is_over_is_drawn_once_and_what_lasts_again(refreshes: list[float | None]) -> None:
    drawn: list[str] = []
    page_parts.live(lambda: drawn.append("over"), is_over=lambda: True)
    page_parts.live(lambda: drawn.append("lasts"), is_over=lambda: False)
    assert refreshes == [None, page_parts.REFRESH_SECONDS]
    assert drawn == ["over", "lasts"]


def test_page_is_drawn_anew_when_what_it_shows_ends(
    refreshes: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reruns: list[str] = []
    monkeypatch.setattr(page_parts.st, "rerun", lambda: reruns.append("rerun"))
    answers = iter([False, True])
    page_parts.live(lambda: None, is_over=lambda: next(answers))
    assert reruns == ["rerun"]


@pytest.mark.parametrize("error", [SpecError("no such sweep"), StoreUnavailable("no answer")])
def test_errors_a_user_can_mend_are_said_in_words(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(page_parts.st, "warning", lambda text, icon: said.append(text))
    with page_parts.readable_errors():
        raise error
    assert said == [str(error)]


def test_faults_keep_their_trace() -> None:
    with pytest.raises(ZeroDivisionError), page_parts.readable_errors():
        raise ZeroDivisionError
