from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from evenload.dashboard.cost import queries as cost_queries
from evenload.dashboard.record_tables import spec_of
from evenload.pipeline.figures.cost import Recorded, recorded
from evenload.pipeline.records.shards import iter_history
from evenload.pipeline.settings import Settings
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


def test_plan_in_the_address_sets_hours_and_prices(open_page: Open, drawn: Any, demo: Any) -> None:
    address = {"sweep": demo.ids["finished"], "ranks": "4", "hours": "2000", "price": "3"}
    page = open_page("cost", **address)
    assert not page.exception
    shown = figures(page)
    table = page.dataframe[0].value.set_index(["setting", "experts"])
    lost: Any = table.loc[("none", 8)]
    assert lost.gpu_hours == pytest.approx(2000 * lost.share / 100)
    assert lost.money == pytest.approx(3 * lost.gpu_hours)
    assert table.share.is_monotonic_increasing
    assert table.share["sign 0.01", 8] < lost.share
    assert shown["Setting"] == "sign 0.01"
    assert float(shown["Saved against none"].removeprefix("$").replace(",", "")) > 0
    assert list(drawn(page)) == ["lost-by-setting", "lost-by-ranks"]


def test_more_ranks_lose_more(open_page: Open, demo: Any) -> None:
    page = open_page("cost", sweep=demo.ids["finished"], ranks="2")
    two = page.dataframe[0].value.set_index(["setting", "experts"]).share["none", 8]
    page.select_slider[0].set_value(8).run()
    eight = page.dataframe[0].value.set_index(["setting", "experts"]).share["none", 8]
    assert two < eight


@pytest.mark.parametrize("sweep", ["searched", "cancelled"])
def test_without_loads_the_page_still_shows_the_cost_of_the_sweep(
    open_page: Open, demo: Any, sweep: str
) -> None:
    page = open_page("cost", sweep=demo.ids[sweep])
    assert not page.exception
    assert "No loads are recorded here" in page.info[0].value
    assert "Core time" in figures(page)


def test_running_sweep_is_billed_for_the_recorded_steps(open_page: Open, demo: Any) -> None:
    page = open_page("cost", sweep=demo.ids["running"])
    assert not page.exception
    assert len(page.dataframe[0].value) == 5


def test_only_the_last_quarter_is_read(demo_home: Any) -> None:
    trial = demo_home.trial("finished", "none", 8)
    spec, folder = spec_of(trial), Settings().trial_dir(trial.digest)
    found = cost_queries.recorded_loads(folder, spec)
    assert found.steps == 75
    whole = recorded(iter_history(folder, columns=["load"]), spec)
    assert found.stretch == pytest.approx(whole.steady_stretch)
    assert cost_queries.recorded_loads(folder / "nowhere", spec) == Recorded(0, 0.0, {}, {})


def test_trial_is_read_again_after_new_steps(
    demo_home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []

    def count(folder: Any, spec: Any) -> Recorded:
        read.append(folder)
        return Recorded(0, 0.0, {}, {})

    monkeypatch.setattr(cost_queries, "recorded_loads", count)
    trial = demo_home.trial("running", "sign 0.05", 16)
    for _ in range(2):
        assert [waits for _, waits in cost_queries.what_waits([trial])] == [()]
    assert len(read) == 1
    further = dataclasses.replace(trial.progress, step=trial.progress.step + 10)
    list(cost_queries.what_waits([dataclasses.replace(trial, progress=further)]))
    assert len(read) == 2
