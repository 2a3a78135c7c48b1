from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from streamlit.testing.v1 import AppTest

from evenload.dashboard.sweeps.new_sweep import numbers
from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


def test_all_sweeps_are_listed_with_state_progress_and_failures(open_page: Open) -> None:
    page = open_page("sweeps")
    assert not page.exception
    table = page.dataframe[0].value.set_index("Sweep")
    table.index = table.index.str.rsplit("-", n=1).str[0]
    assert sorted(table.index) == [
        "first-try",
        "gpu-night",
        "schedules",
        "search",
        "step-size-by-experts",
    ]
    finished = table.loc["step-size-by-experts"]
    assert list(finished.State) == ["finished, some failed"]
    assert (finished.Progress, finished.Failed) == (100.0, 1)
    assert finished.Completed == "14 of 15"
    assert table.loc["gpu-night"].Completed == "not listed yet"
    assert 40 < table.loc["schedules"].Progress < 70
    assert table.loc["first-try"].Progress == 0


def test_totals_cover_all_sweeps(open_page: Open) -> None:
    assert figures(open_page("sweeps")) == {
        "Active sweeps": "2",
        "Trials running": "2",
        "Trials completed": "50 of 61",
        "Trials failed": "2",
    }


def test_empty_store_shows_the_first_command(render_in: Open, settings: Settings) -> None:
    store = SweepStore(settings.store_url)
    store.migrate()
    store.close()
    for name in ("sweeps", "sweep", "run"):
        page = render_in(name)
        assert not page.exception
        assert "evenload quickstart" in page.info[0].value


def test_missing_store_is_explained_without_a_traceback(render_in: Open) -> None:
    for name in ("sweeps", "sweep", "run"):
        page = render_in(name)
        assert not page.exception
        assert "evenload sweep list" in page.warning[0].value


def test_bad_name_is_explained_instead_of_the_dry_run(open_page: Open) -> None:
    page = open_page("sweeps", view="Start a sweep")
    page.text_input[0].set_value("no spaces").run()
    assert not page.exception
    assert "name" in page.warning[0].value


@pytest.mark.parametrize(("field", "typed"), [("Steps", -5), ("Seeds", 0), ("Seeds", 21)])
def test_number_out_of_range_is_named_and_nothing_can_be_submitted(
    open_page: Open, field: str, typed: int
) -> None:
    page = open_page("sweeps", view="Start a sweep")
    assert "Submit" in [button.label for button in page.button]
    next(one for one in page.number_input if one.label == field).set_value(typed).run()
    assert f"{field}: {typed} is not between" in page.warning[0].value
    assert "Submit" not in [button.label for button in page.button]


def test_text_in_place_of_a_number_is_named_in_our_words(open_page: Open) -> None:
    with pytest.raises(SpecError, match="Step sizes: 'abc' is not a number"):
        numbers("Step sizes", ["0.1", "abc"], float)
    with pytest.raises(SpecError, match=r"Experts: '1\.5' is not a whole number"):
        numbers("Experts", ["1.5"], int)


def test_too_little_disk_is_said_before_the_start(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    page = open_page("sweeps", view="Start a sweep")
    assert "10 kB are free for the home" in page.error[0].value
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**15))
    assert not open_page("sweeps", view="Start a sweep").error


def test_without_controls_no_file_is_taken(open_page: Open) -> None:
    page = open_page("sweeps", view="Start a sweep", **{"from": "YAML file"})
    assert "takes no files" in page.info[0].value
    assert not page.file_uploader


def test_sweep_file_can_be_uploaded(open_page: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_DASHBOARD_CONTROLS", "true")
    page = open_page("sweeps", view="Start a sweep", **{"from": "YAML file"})
    page.file_uploader[0].upload(
        "mine.yaml",
        b"{name: mine, base: {model: {preset: tiny}, balancer: {kind: sign}, "
        b"train: {steps: 9, batch_sequences: 2, seq_len: 8}}, axes: {train.seed: [0, 1, 2]}}",
    ).run()
    assert not page.exception
    assert figures(page)["Trials"] == "3"
    page.file_uploader[0].upload("bad.yaml", b"- 1").run()
    assert "must hold a mapping" in page.warning[0].value
