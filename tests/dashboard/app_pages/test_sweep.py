from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def _charts(page: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]


def test_finished_sweep_shows_four_grids_of_settings_by_experts(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["finished"])
    assert not page.exception
    assert page.title[0].value == "step-size-by-experts"
    grids = [chart["data"][0] for chart in _charts(page)]
    assert len(grids) == 4
    for grid in grids:
        assert grid["x"] == ["8", "16", "32"]
        assert grid["y"] == ["none", "aux_loss 0.01", "sign 0.001", "sign 0.01", "sign 0.1"]
        assert grid["text"][4][2] == "failed"


def test_table_has_every_trial_with_max_vio_beside_its_floor(open_page: Open, demo: Any) -> None:
    table = open_page("sweep", sweep=demo.ids["finished"]).dataframe[0].value
    trials = demo.trials("finished")
    assert table.rule.tolist() == [trial.label for trial in trials]
    assert table.max_vio[0] == trials[0].result["max_vio"]
    assert table.max_vio_floor[0] == trials[0].result["max_vio_floor"]
    assert table.state.map(list).tolist()[-1] == ["failed"]
    assert table.progress.tolist()[-1] == 140 / 3


def test_failed_trial_shows_its_traceback_and_leads_to_its_run(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["finished"])
    (failure,) = page.expander
    assert failure.label == "sign 0.1, 32 experts: failed after step 140"
    assert "FloatingPointError: step 141" in failure.code[0].value
    digest = demo.trial("finished", "sign 0.1", 32).digest
    (link,) = failure.get("page_link")
    assert link.proto.query_string == f"run={digest}"


def test_recommendation_is_stated(open_page: Open, demo: Any) -> None:
    assert "sign 0.01" in open_page("sweep", sweep=demo.ids["finished"]).info[0].value


def test_running_sweep_shows_where_its_trials_stand(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["running"])
    assert not page.exception
    text = _charts(page)[0]["data"][0]["text"]
    assert text[2:] == [["failed", "queued"], ["training", "queued"]]
    states = [state for (state,) in page.dataframe[0].value.state]
    assert states.count("training") == 2
    assert states.count("queued") == 3


def test_sweeps_without_results_render(open_page: Open, demo: Any) -> None:
    cancelled = open_page("sweep", sweep=demo.ids["cancelled"])
    assert not cancelled.exception
    assert {state for (state,) in cancelled.dataframe[0].value.state} == {"cancelled"}
    submitted = open_page("sweep", sweep=demo.ids["submitted"])
    assert not submitted.exception
    assert "not listed yet" in submitted.info[0].value


def test_unknown_address_opens_the_newest_sweep(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep="nonsense")
    assert not page.exception
    assert page.title[0].value == "schedules"
    assert page.query_params["sweep"] == demo.ids["running"]


def test_choosing_a_sweep_changes_the_address(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["running"])
    page.selectbox[0].select(demo.ids["finished"]).run()
    assert page.query_params["sweep"] == demo.ids["finished"]
    assert page.title[0].value == "step-size-by-experts"
