"""Recorded runs on the pages that show loads, while their steps still come in."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from evenload.dashboard import shown_runs
from evenload.dashboard.shown_runs import figure_of
from evenload.pipeline.figures.loads import ep_effective_util, max_vio_floor, utilisation
from evenload.pipeline.records.recorded_runs import recorded_run
from evenload.pipeline.records.run_writer import RunWriter
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from tests.dashboard.conftest import Demo, render
from tests.dashboard.page_figures import figures
from tests.pipeline.records import recorded

Open = Callable[..., AppTest]


@pytest.fixture
def live(settings: Settings) -> RunWriter:
    writer = recorded.writer(settings.root)
    writer.write(recorded.steps(1, 40))
    return writer


def test_run_is_shown_while_its_steps_come_in(render_in: Open, drawn: Any, live: RunWriter) -> None:
    page = render_in("run", run="my-model", view="Load")
    assert not page.exception
    assert page.title[0].value == "my model"
    assert figures(page)["Steps"] == "40 / 200"
    count_SLE = read_history(live.run.folder).count_SLE
    expected_LE = 100 * utilisation(count_SLE[-10:].sum(axis=0))
    np.testing.assert_allclose(drawn(page)["load-by-layer"].map(), expected_LE, atol=1)
    live.write(recorded.steps(41, 55))
    shown_runs._recorded.clear()  # two seconds later
    page.run()
    assert figures(page)["Steps"] == "55 / 200"
    final = recorded_run(live.run.folder.parent.parent, "my-model").figures()
    assert figures(page)["MaxVio"] == f"{final['max_vio']:.2f}"
    assert figures(page)["Sampling floor"] == f"{final['max_vio_floor']:.2f}"
    assert final["max_vio_floor"] == max_vio_floor(recorded.TOKENS, 8, 2)
    assert final["idle_frac"] == pytest.approx(1 / 16)


@pytest.mark.parametrize("view", ["Load", "Balance", "Biases", "Training", "Record"])
def test_every_view_of_a_recorded_run_draws(
    render_in: Open, drawn: Any, live: RunWriter, view: str
) -> None:
    page = render_in("run", run="my-model", view=view)
    assert not page.exception
    charts = drawn(page)
    if view == "Training":
        assert charts["loss"].table.iloc[:, 1].unique().tolist() == [10, 20, 30, 40]
    if view == "Balance":
        assert {"3", "5"} <= {name.removeprefix("layer ") for name in charts["max-vio"].lines()}
    if view == "Record":
        known = dict(page.dataframe[0].value.to_numpy().tolist())
        assert (known["Layers"], known["State"]) == ("2: 3, 5", "live")


def test_run_without_a_loss_says_how_to_tell_it(render_in: Open, settings: Settings) -> None:
    recorded.writer(settings.root).write(recorded.steps(1, 9))
    page = render_in("run", run="my-model", view="Training")
    assert not page.exception
    assert "balance.log(loss=loss)" in page.info[0].value


@pytest.fixture
def beside(demo_home: Demo) -> Iterator[Demo]:
    """A recorded run in the home of the demo."""
    writer = recorded.writer(demo_home.home)
    writer.write(recorded.steps(1, 40))
    writer.close()
    yield demo_home
    shutil.rmtree(demo_home.home / "runs")


def test_recorded_run_is_compared_with_trials(beside: Demo, drawn: Any) -> None:
    trial = beside.trial("finished", "sign 0.01", 8)
    page = render("compare", runs=f"{trial.digest},my-model")
    assert not page.exception
    table = page.dataframe[0].value.set_index("run")
    assert table.state["my model"] == "ended"
    assert table.tokens_per_step["my model"] == recorded.TOKENS
    run = recorded_run(beside.home, "my-model")
    assert table.max_vio["my model"] == pytest.approx(run.figures()["max_vio"])
    assert table.idle_frac["my model"] == pytest.approx(100 / 16)
    assert figure_of(run, "val_bits_per_byte") != figure_of(run, "val_bits_per_byte")  # NaN
    assert "what a recorded run reads is not known" in " ".join(c.value for c in page.caption)
    charts = drawn(page)
    assert {"compare-max-vio", "compare-loss", "compare-map-1"} <= charts.keys()
    assert "my model" in charts["compare-rank"].lines()


def test_recorded_run_is_a_choice_among_trials(beside: Demo) -> None:
    page = render("run")
    assert any("my model" in option for option in page.selectbox[0].options)
    assert not page.exception
    page = render("compare")
    assert any("my model" in option for option in page.multiselect[0].options)


def test_cost_of_recorded_runs_is_that_of_their_expert_layers(beside: Demo, drawn: Any) -> None:
    page = render("cost", sweep="recorded runs", ranks="4", hours="1000")
    assert not page.exception
    row = page.dataframe[0].value.set_index("setting").loc["my-model"]
    history = read_history(recorded_run(beside.home, "my-model").folder, first=31)
    stretch = (1 / ep_effective_util(history.count_SLE, 4)).mean()
    assert row.share == pytest.approx(100 * (1 - 1 / stretch))
    assert row.gpu_hours == pytest.approx(10 * row.share)
    assert list(drawn(page)) == ["lost-by-setting", "lost-by-ranks"]
    assert render("cost").selectbox[0].options[-1] == "recorded runs"


def test_cost_works_without_a_store(render_in: Open, live: RunWriter) -> None:
    page = render_in("cost")
    assert not page.exception
    assert page.dataframe[0].value.setting.tolist() == ["my-model"]


def test_sweeps_link_to_recorded_runs_without_a_store(render_in: Open, live: RunWriter) -> None:
    page = render_in("sweeps")
    assert not page.exception
    link = page.get("page_link")[0].proto
    assert (link.label, link.query_string) == ("Recorded runs: 1", "run=my-model")
