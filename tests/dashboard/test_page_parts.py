from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenload.dashboard import page_parts
from evenload.pipeline.errors import SpecError, StoreUnavailable


@pytest.fixture
def refreshes(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Collects the `run_every` of every fragment."""
    asked: list[float | None] = []

    def fragment(run_every: float | None = None) -> Callable[[Any], Any]:
        asked.append(run_every)
        return lambda body: body

    monkeypatch.setattr(page_parts.st, "fragment", fragment)
    return asked


def test_pages_that_are_over_are_refreshed_less_often(refreshes: list[float | None]) -> None:
    drawn: list[str] = []
    page_parts.live(lambda: drawn.append("over"), is_over=lambda: True)
    page_parts.live(lambda: drawn.append("running"), is_over=lambda: False)
    assert refreshes == [page_parts.IDLE_SECONDS, page_parts.REFRESH_SECONDS]
    assert drawn == ["over", "running"]


def test_page_runs_again_when_its_subject_ends(
    refreshes: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    reruns: list[str] = []
    monkeypatch.setattr(page_parts.st, "rerun", lambda: reruns.append("rerun"))
    answers = iter([False, True])
    page_parts.live(lambda: None, is_over=lambda: next(answers))
    assert reruns == ["rerun"]


@pytest.mark.parametrize("error", [SpecError("no such sweep"), StoreUnavailable("no answer")])
def test_user_errors_become_warnings(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(page_parts.st, "warning", lambda text, icon: shown.append(text))
    with page_parts.readable_errors():
        raise error
    assert shown == [str(error)]


def test_bugs_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), page_parts.readable_errors():
        raise ZeroDivisionError
