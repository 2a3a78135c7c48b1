from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evenload.dashboard
from evenload.dashboard.charts.sweep_grid import GRID_METRICS
from evenload.dashboard.glossary.entries import GLOSSARY, meaning
from evenload.pipeline.figures.loads import summarise

ROOM = Path(str(evenload.dashboard.__file__)).parent


def test_every_figure_of_a_trial_has_an_entry(demo: Any) -> None:
    figures = {name for trial in demo.trials("finished") for name in trial.result}
    assert figures <= GLOSSARY.keys()
    summary = summarise(np.full((1, 1, 4), 4), tokens_per_step=8, top_k=2)
    assert summary.keys() <= GLOSSARY.keys()
    assert {metric.name for metric in GRID_METRICS} <= GLOSSARY.keys()


def test_every_card_links_to_an_entry_that_is_there() -> None:
    linked = [
        keyword.value
        for path in ROOM.glob("*/page.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "metric" and isinstance(keyword.value, ast.Constant)
    ]
    assert linked
    assert {str(ast.literal_eval(name)) for name in linked} <= GLOSSARY.keys()


@pytest.mark.parametrize("name", GLOSSARY)
def test_entries_are_whole(name: str) -> None:
    entry = GLOSSARY[name]
    assert all(entry)
    assert len(entry.meaning) < 180  # it is a tooltip too
    assert not entry.meaning.endswith(".")
    assert entry.formula.count("{") == entry.formula.count("}")


def test_titles_are_unlike() -> None:
    titles = [entry.title for entry in GLOSSARY.values()]
    assert len(set(titles)) == len(titles)


def test_unknown_figures_have_no_meaning_and_raise_nothing() -> None:
    assert meaning("max_vio") == GLOSSARY["max_vio"].meaning
    assert meaning("nonsense") == ""
