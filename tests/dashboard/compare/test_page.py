from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from evenload.dashboard.compare.tables import difference
from evenload.dashboard.run.queries import eval_percent
from evenload.pipeline.figures.metrics import METRICS

Open = Callable[..., AppTest]


@pytest.fixture
def trials(demo: Any) -> list[Any]:
    return [demo.trial("finished", "sign 0.01", 8), demo.trial("finished", "none", 32)]


def _runs(trials: list[Any]) -> str:
    return ",".join(trial.digest for trial in trials)


def test_runs_of_different_expert_counts_are_compared(
    open_page: Open, drawn: Any, trials: list[Any]
) -> None:
    page = open_page("compare", runs=_runs(trials), window="evaluation")
    assert not page.exception
    charts = drawn(page)
    assert {key.removeprefix("compare-") for key in charts} == {
        *("max-vio", "loss", "rank", "map-0", "map-1", "difference-0")
    }
    runs = ["sign 0.01, 8 experts", "none, 32 experts"]
    assert list(charts["compare-rank"].lines()) == [*runs, "fair share"]
    points = charts["compare-difference-0"].map()
    small, large = (eval_percent(trial) for trial in trials)
    assert small is not None
    assert large is not None
    np.testing.assert_array_equal(points, difference(large, small))


def test_the_audit_of_the_compared_runs_is_shown(open_page: Open, demo: Any) -> None:
    """One of them, of another sweep, still learns."""
    runs = [demo.trial("searched", "none", 16), demo.trial("finished", "sign 0.01", 8)]
    page = open_page("compare", runs=_runs(runs))
    assert not page.exception
    (audit,) = [one for one in page.expander if one.label.startswith("Audit")]
    assert audit.label == "Audit, 2 findings: not converged, records missing"


def test_reference_of_the_differences_can_be_chosen(open_page: Open, trials: list[Any]) -> None:
    page = open_page("compare", runs=_runs(trials), against="none, 32 experts")
    assert not page.exception
    titles = [str(text.value) for text in page.markdown]
    assert "**sign 0.01, 8 experts − none, 32 experts**" in titles


def test_max_vio_can_be_a_multiple_of_each_runs_floor(
    open_page: Open, drawn: Any, trials: list[Any]
) -> None:
    page = open_page("compare", runs=_runs(trials), floor="true")
    assert not page.exception
    lines = drawn(page)["compare-max-vio"].lines()
    floors = [line.tolist() for name, line in lines.items() if name.startswith("floor")]
    assert floors == [[1, 1], [1, 1]]


def test_failed_running_and_queued_runs_can_be_compared(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    runs = [
        demo.trial("finished", "sign 0.1", 32),
        demo.trial("running", "sign 0.05", 16),
        demo.trial("finished", "sign 0.01", 8),
    ]
    page = open_page("compare", runs=_runs(runs))
    assert not page.exception
    assert len(drawn(page)) == 3 + 3 + 2
    assert page.dataframe[0].value.state.tolist() == ["failed", "training", "completed"]


def test_page_without_runs_asks_for_them(open_page: Open, trials: list[Any]) -> None:
    assert "Choose 2 to 8 runs" in open_page("compare").info[0].value
    one = open_page("compare", runs=trials[0].digest)
    assert "Choose 2 to 8 runs" in one.info[0].value
    unknown = open_page("compare", runs="nonsense,nonsense2")
    assert not unknown.exception


def test_chosen_runs_are_in_the_address(
    open_page: Open, drawn: Any, trials: list[Any], demo: Any
) -> None:
    page = open_page("compare")
    page.selectbox[0].set_value(demo.ids["finished"]).run()
    page.multiselect[0].set_value([trial.digest for trial in trials]).run()
    assert not page.exception
    assert page.query_params["runs"] in (_runs(trials), [_runs(trials)])
    assert len(drawn(page)) == 6


def test_every_chart_links_to_its_definition(
    open_page: Open, drawn: Any, trials: list[Any]
) -> None:
    page = open_page("compare", runs=_runs(trials))
    linked = [link.proto.query_string for link in page.get("page_link")]
    assert len(linked) == len(drawn(page))
    assert {query.removeprefix("metric=") for query in linked} <= METRICS.keys()
