from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Sweep = Callable[..., dict[str, Any]]


@pytest.fixture
def sweep_id(here: Any, sweep: Sweep) -> str:
    ended = here("sweep", "submit", here.write("sweep.yaml", sweep()), "--json")
    return str(ended.document["sweep_id"])


def test_both_files_are_written_and_one_document_printed(here: Any, sweep_id: str) -> None:
    ended = here("report", sweep_id, "--html", "a.html", "--markdown", "a.md", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["files"] == {"html": "a.html", "markdown": "a.md"}
    assert ended.document["joules"] == 0
    assert ended.document["findings"] == []
    assert sweep_id in (here.folder / "a.html").read_text()
    assert sweep_id in (here.folder / "a.md").read_text()


def test_the_page_is_named_after_its_sweep(here: Any, sweep_id: str) -> None:
    assert here("report", sweep_id).code == 0
    assert (here.folder / f"{sweep_id}.html").read_text().startswith("<!DOCTYPE html>")


def test_a_carbon_factor_without_its_source_is_refused(
    here: Any, sweep_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_COST_GRAMS_PER_KWH", "56")
    refused = here("report", sweep_id)
    assert refused.code == 2
    assert "EVENLOAD_COST_CARBON_SOURCE" in refused.err
    monkeypatch.setenv("EVENLOAD_COST_CARBON_SOURCE", "my grid")
    assert here("report", sweep_id).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-sweep"], ["no-such-sweep"]),
        (["{id}", "--html", "absent/folder/a.html"], ["absent/folder/a.html", "No such file"]),
    ],
)
def test_bad_input_exits_with_2(
    here: Any, sweep_id: str, arguments: list[str], words: list[str]
) -> None:
    ended = here("report", *(argument.format(id=sweep_id) for argument in arguments))
    assert ended.code == 2
    assert [word for word in words if word not in ended.err] == []
