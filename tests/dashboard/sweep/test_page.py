from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

Open = Callable[..., AppTest]


def test_table_has_every_trial_with_max_vio_beside_its_floor(open_page: Open, demo: Any) -> None:
    table = open_page("sweep", sweep=demo.ids["finished"], view="Runs").dataframe[0].value
    trials = demo.trials("finished")
    assert table.rule.tolist() == [trial.label for trial in trials]
    assert table.max_vio[0] == trials[0].result["max_vio"]
    assert table.max_vio_floor[0] == trials[0].result["max_vio_floor"]
    assert table.state.map(list).tolist()[-1] == ["failed"]
    assert table.progress.tolist()[-1] == 140 / 3


def test_failed_trial_shows_its_traceback_and_links_to_its_run(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["finished"], view="Runs")
    (failure,) = page.expander
    assert failure.label == "sign 0.1, 32 experts, seed 0: failed after step 140"
    assert "FloatingPointError: step 141" in failure.code[0].value
    digest = demo.trial("finished", "sign 0.1", 32).digest
    (link,) = failure.get("page_link")
    assert link.proto.query_string == f"run={digest}"


def test_answer_comes_first_with_a_verdict_per_place(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    page = open_page("sweep", sweep=demo.ids["searched"])
    assert not page.exception
    chips = page.markdown[2].value.splitlines()
    assert [chip.split(":")[1] for chip in chips] == [
        f"green-badge[claim] **{experts} experts**" for experts in (16, 32)
    ]
    assert "take sign 0.01" in chips[0]
    loss, loads = (drawn(page)[key].table for key in ("board-loss", "board-max-vio"))
    assert set(loss.role) == {"named", "tied in evenness", "control"}
    named, control = (loss[loss.role == role] for role in ("named", "control"))
    assert named.setting.tolist()[0] == "sign 0.01"
    assert control["loss minus that of none, bits per byte"].tolist() == [0, 0]
    assert (loss["margin to"] > loss["margin from"]).all()
    assert (loads["by chance"] > 0).all()


def test_answer_is_provisional_from_the_first_finished_trial(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    page = open_page("sweep", sweep=demo.ids["running"])
    assert not page.exception
    chips = page.markdown[2].value
    assert "blue-badge[provisional] 3 of 8 trials over, so nothing is claimed yet" in chips
    assert "most even so far sign 0.00" in chips
    assert drawn(page)["board-loss"].table.setting.tolist() == ["sign 0.005", "sign 0.002"]
    running = page.dataframe[0].value
    assert running["Trial"].tolist()[0] == "sign 0.05, 16 experts, seed 0"
    assert not any("more seed" in button.label for button in page.button)


def test_sweep_with_failures_is_not_green(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["finished"])
    assert any("some failed" in markdown.value for markdown in page.markdown)


def test_running_sweep_shows_the_states_of_its_trials(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    page = open_page("sweep", sweep=demo.ids["running"], view="Runs")
    states = [state for (state,) in page.dataframe[0].value.state]
    assert states.count("training") == 2
    assert states.count("queued") == 3


def test_sweeps_without_results_render(open_page: Open, demo: Any) -> None:
    cancelled = open_page("sweep", sweep=demo.ids["cancelled"], view="Runs")
    assert not cancelled.exception
    assert {state for (state,) in cancelled.dataframe[0].value.state} == {"cancelled"}
    submitted = open_page("sweep", sweep=demo.ids["submitted"])
    assert not submitted.exception
    assert "not listed yet" in submitted.info[0].value


@pytest.mark.parametrize(
    ("sweep", "view"),
    [
        ("searched", "Runs"),
        ("finished", "Runs"),
        ("running", "Front"),
        ("running", "Curves"),
        ("cancelled", "Front"),
        ("cancelled", "Runs"),
    ],
)
def test_every_view_renders_in_every_state_of_the_sweep(
    open_page: Open, demo: Any, sweep: str, view: str
) -> None:
    page = open_page("sweep", sweep=demo.ids[sweep], view=view)
    assert not page.exception
    assert not page.warning


def test_front_shows_search_and_confirmation(open_page: Open, drawn: Any, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["searched"], view="Front")
    charts = drawn(page)
    assert list(charts) == ["front", "confirm-loss", "confirm-max-vio"]
    roles = next(table.role for table in charts["front"].tables if "role" in table)
    assert set(roles) == {"search", "fresh seeds", "controls", "recommended"}
    for name in ("confirm-loss", "confirm-max-vio"):
        assert charts[name].table.stage.tolist() == ["search", "fresh seeds"] * 6
    assert page.dataframe[0].value.verdict.tolist().count("named") == 2


def test_x_axis_of_curves_is_in_the_address(open_page: Open, drawn: Any, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["searched"], view="Curves", over="tokens")
    assert "tokens trained" in drawn(page)["learning-curves"].table
    assert page.dataframe[0].value.Why.tolist() == ["stopped: ASHA: 8th of 9 at step 100"] * 2


def test_linked_charts_have_every_run_and_all_are_in_one_table(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    page = open_page("sweep", sweep=demo.ids["searched"], view="Runs")
    assert drawn(page)["runs"].table.digest.nunique() == 36
    assert len(page.dataframe[0].value) == 36


def test_filter_group_and_selection_in_the_address_drive_table_and_charts(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    chosen = demo.trials("searched")[2:4]
    digests = [trial.digest for trial in chosen]
    page = open_page("sweep", sweep=demo.ids["searched"], view="Runs", filter="SIGN 32 experts",
                     picked=",".join(digests))  # fmt: skip
    table = page.dataframe[0].value
    assert set(table.rule.str.split().str[0]) == {"sign"}
    assert set(table.experts) == {32}
    chart = drawn(page)["runs"].table
    assert chart.digest.nunique() == len(table)
    assert set(chart.digest[chart.picked]) <= set(digests)
    page = open_page("sweep", sweep=demo.ids["searched"], view="Runs", group="rule")
    groups = page.dataframe[0].value
    assert groups.rule.tolist() == ["none", "aux_loss", "sign", "proportional", "self_tuned"]
    assert groups.runs.sum() == 36
    page = open_page("sweep", sweep=demo.ids["searched"], view="Runs", filter="no such run")
    assert "No run has “no such run”" in page.info[0].value


def test_range_of_x_in_the_address_is_drawn_and_can_be_left(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    address = {"sweep": demo.ids["searched"], "view": "Curves", "zoom-learning-curves": "100:200"}
    page = open_page("sweep", **address)
    x = drawn(page)["learning-curves"].spec["layer"][0]["encoding"]["x"]
    assert x["scale"]["domain"] == [100, 200]
    (button,) = (one for one in page.button if one.label.startswith("Show all"))
    page = button.click().run()
    assert "domain" not in drawn(page)["learning-curves"].spec["layer"][0]["encoding"]["x"]["scale"]
    assert "zoom-learning-curves" not in page.query_params
    for damaged in ("200:100", "a:b", "1", "nan:3"):
        page = open_page("sweep", **address | {"zoom-learning-curves": damaged})
        assert not page.exception


def test_unknown_address_is_said_and_another_sweep_can_be_chosen(
    open_page: Open, demo: Any
) -> None:
    page = open_page("sweep", sweep="gone")
    assert "Sweep 'gone' is not known here" in page.error[0].value
    assert not page.title
    page.selectbox[0].select(demo.ids["finished"]).run()
    assert not page.error
    assert page.query_params["sweep"] == demo.ids["finished"]


def test_choosing_a_sweep_changes_the_address(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["running"])
    page.selectbox[0].select(demo.ids["finished"]).run()
    assert page.query_params["sweep"] == demo.ids["finished"]
    assert page.title[0].value == "step-size-by-experts"


def test_unknown_view_is_said_and_the_first_is_shown(open_page: Open, demo: Any) -> None:
    page = open_page("sweep", sweep=demo.ids["finished"], view="Gird")
    assert "view=Gird, which is not known here" in page.error[0].value
    assert page.title[0].value == "step-size-by-experts"


@pytest.mark.slow
def test_losses_have_the_chosen_unit_in_every_view(open_page: Open, drawn: Any, demo: Any) -> None:
    for view, key in [
        ("Answer", "board-loss"),
        ("Answer", "board-steps-loss"),
        ("Front", "front"),
        ("Curves", "learning-curves"),
    ]:
        shown = []
        for unit in ("bits per byte", "nats per token"):
            page = open_page("sweep", sweep=demo.ids["searched"], view=view, loss=unit)
            chart = drawn(page)[key]
            (column,) = {name for table in chart.tables for name in table if unit in name}
            table = next(table for table in chart.tables if column in table)
            shown.append(table[column].abs().sum())
        assert shown[0] * math.log(2) == pytest.approx(shown[1], rel=1e-4), view
