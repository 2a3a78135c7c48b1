"""An imported run on the pages that show loads: its steps have gaps, and nothing else is known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from evenload.pipeline.settings import Settings
from evenload.workers.cli import main
from tests.dashboard.page_figures import figures
from tests.pipeline.records.imports.writers import TOP_K, counted, routes

Open = Callable[..., AppTest]


@pytest.fixture
def imported(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    count_SLE = counted(routes(steps=30))
    path = tmp_path / "counts.npz"
    np.savez(path, count_SLE=count_SLE, top_k=TOP_K, step_S=10 * np.arange(1, 31))
    arguments = ["import", "npz", str(path), "--name", "theirs", "--home", str(settings.root)]
    monkeypatch.setattr(sys, "argv", ["evenload", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    return "theirs"


@pytest.mark.parametrize("view", ["Load", "Balance", "Biases", "Training", "Record"])
def test_every_view_of_an_imported_run_draws(render_in: Open, imported: str, view: str) -> None:
    page = render_in("run", run=imported, view=view)
    assert not page.exception
    assert page.title[0].value == "theirs"
    assert figures(page)["Steps"] == "300"


def test_an_imported_run_is_compared(render_in: Open, imported: str) -> None:
    page = render_in("compare", runs=imported)
    assert not page.exception
