from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from evenload.dashboard.run.views import cockpit
from evenload.pipeline.figures.evaluation import Detail, GroupScores, LossByK, Routes
from evenload.pipeline.figures.loads import ep_effective_util, utilisation
from evenload.pipeline.records import evaluation_arrays
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from tests.dashboard.conftest import render, use_home
from tests.dashboard.page_figures import figures

Open = Callable[..., AppTest]


def _windows(page: AppTest) -> Any:
    """The button group with the number of summed steps."""
    return next(group for group in page.get("button_group") if "evaluation" in group.options)


def _captions(page: AppTest) -> str:
    return " ".join(str(caption.value) for caption in page.caption)


@pytest.fixture
def finished(demo: Any) -> Any:
    return demo.trial("finished", "sign 0.01", 16)


def test_load_maps_hold_the_recorded_loads(
    open_page: Open, drawn: Any, demo: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest)
    assert not page.exception
    charts = drawn(page)
    history = read_history(Settings(home=demo.home).trial_dir(finished.digest))
    last_ten_LE = utilisation(history.count_SLE[-10:].sum(axis=0))
    np.testing.assert_allclose(charts["load-by-layer"].map(), 100 * last_ten_LE, atol=1)
    layer_SE = utilisation(history.count_SLE[:, 0])
    np.testing.assert_allclose(charts["load-over-time"].map().T, 100 * layer_SE, atol=1)


def test_slider_and_window_choose_the_steps_of_the_map(
    open_page: Open, drawn: Any, demo: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest)
    page.slider[0].set_value(20)
    _windows(page).set_value("1 step")
    page.run()
    history = read_history(Settings(home=demo.home).trial_dir(finished.digest), first=20, last=20)
    expected_LE = 100 * utilisation(history.count_SLE[0])
    np.testing.assert_allclose(drawn(page)["load-by-layer"].map(), expected_LE, atol=1)
    assert "Steps 20 to 20." in _captions(page)


def test_evaluation_load_can_be_shown(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest)
    _windows(page).set_value("evaluation")
    page.run()
    assert not page.exception
    assert "whole evaluation set" in _captions(page)


def test_summary_shows_the_figures_of_the_trial(open_page: Open, finished: Any) -> None:
    shown = figures(open_page("run", run=finished.digest))
    assert shown["Steps"] == "300 / 300"
    assert shown["Bits per byte"] == f"{finished.result['val_bits_per_byte']:.3f}"
    assert shown["MaxVio"] == f"{finished.result['max_vio']:.2f}"
    assert shown["Sampling floor"] == f"{finished.result['max_vio_floor']:.2f}"
    assert shown["Idle experts"] == f"{finished.result['idle_frac']:.1%}"
    assert shown["Count check"] == "passed"


def test_balance_view_has_max_vio_idle_experts_and_streaks(
    open_page: Open, drawn: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest, view="Balance")
    assert not page.exception
    charts = drawn(page)
    assert set(charts) == {"max-vio", "idle", "idle-streak", "idle-streaks"}
    layers = [f"layer {n}" for n in range(1, 5)]
    *shown, floor = charts["max-vio"].lines()
    assert shown == layers == list(charts["idle-streak"].lines())
    assert floor.startswith("sampling floor")
    assert list(charts["idle"].lines())[4].startswith("by chance")
    longest = np.nanmax(charts["idle-streaks"].map())
    assert longest == finished.result["idle_streak_max"]
    assert longest == max(line.max() for line in charts["idle-streak"].lines().values())


def test_biases_view_has_paths_drift_and_spread(
    open_page: Open, drawn: Any, demo: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest, view="Biases", layer="2")
    assert not page.exception
    charts = drawn(page)
    paths, drift, spread = (charts[k].lines() for k in ("bias", "bias-drift", "bias-spread"))
    bias_SE = read_history(Settings(home=demo.home).trial_dir(finished.digest)).bias_SLE[:, 1]
    assert len(paths) == 16
    ends = sorted(line[-1] for line in paths.values())
    np.testing.assert_allclose(ends, np.sort(bias_SE[-1]), rtol=1e-5)
    assert spread["layer 2"][-1] == pytest.approx(np.ptp(bias_SE[-1]), rel=1e-5)
    assert drift["layer 2"][-1] == pytest.approx(np.abs(np.diff(bias_SE[-2:], axis=0)).mean())


def test_training_view_has_loss_throughput_gradient_and_rate(
    open_page: Open, drawn: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest, view="Training")
    charts = drawn(page)
    loss, throughput, norm, rate = (
        charts[key].table.iloc[:, 2] for key in ("loss", "throughput", "grad-norm", "learning-rate")
    )
    assert len(loss) == 300
    assert throughput.mean() == pytest.approx(finished.result["tokens_per_second"], rel=0.02)
    assert norm.min() >= 1
    assert set(rate) == {np.float32(3e-3)}


def test_system_view_shows_the_samples_of_the_host(
    open_page: Open, drawn: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest, view="System")
    assert not page.exception
    keys = ("processor-percent", "memory-gib", "host-load", "host-memory-percent")
    charts = drawn(page)
    assert {f"system-{key}" for key in keys} <= set(charts)
    _, steps, memory = charts["system-memory-gib"].table.to_numpy().T
    assert steps.tolist() == list(range(10, 301, 10))
    assert (memory > 0).all()


def test_system_view_of_a_queued_run_has_no_samples(open_page: Open, demo: Any) -> None:
    queued = demo.trial("running", "sign 0.05", 32)
    page = open_page("run", run=queued.digest, view="System")
    assert not page.exception
    assert "no samples" in page.info[0].value


def test_experts_view_names_missing_parts(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="Experts")
    assert not page.exception
    assert "recorded no groups" in page.info[0].value


def test_experts_view_shows_domains_pairs_and_values_of_k(
    open_page: Open, drawn: Any, demo: Any, finished: Any
) -> None:
    folder = Settings(home=demo.home).trial_dir(finished.digest)
    rng, L, E = np.random.default_rng(0), 4, 16
    together_LEE = rng.integers(1, 50, (L, E, E))
    detail = Detail(
        GroupScores(
            ("prose", "code"),
            np.array([2.0, 1.0]),
            np.array([2.5, 1.5]),
            np.array([512, 512]),
            np.stack([np.full((L, E), 64), np.arange(L * E).reshape(L, E)]),
        ),
        LossByK(np.array([1, 2, 4]), np.array([3.0, 2.0, 2.1]), np.ones((3, L, E), np.int64), 512),
        Routes(together_LEE + together_LEE.swapaxes(1, 2), rng.integers(1, 50, (L - 1, E, E))),
    )
    evaluation_arrays.write(folder, 300, detail)
    st.cache_data.clear()
    try:
        page = open_page("run", run=finished.digest, view="Experts", layer="2")
    finally:
        shutil.rmtree(folder / "evaluation")
    assert not page.exception
    keys = "load-by-domain", "specialisation", "loss-by-domain", "co-activation", "onward"
    charts = drawn(page)
    assert set(charts) == {*keys, "loss-by-k"}
    expected_E = 100 * np.arange(E, 2 * E) / np.arange(E, 2 * E).mean()
    np.testing.assert_allclose(charts["load-by-domain"].map()[1], expected_E, atol=1)
    assert len(charts["specialisation"].table) == L
    assert charts["loss-by-domain"].table.iloc[:, 1].tolist() == [2.5, 1.5]
    assert np.isnan(np.diagonal(charts["co-activation"].map())).all()
    assert charts["onward"].map().shape == (E, E)
    by_k = charts["loss-by-k"].table
    assert by_k[by_k.series == "trained with k = 2"].iloc[:, 1].tolist() == [2]


def test_record_view_has_figures_spec_attempts_and_log(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="Record")
    assert not page.exception
    figures, attempts = (frame.value for frame in page.dataframe)
    assert "val_bits_per_byte" in figures.Name.tolist()
    assert attempts.Work.tolist() == ["train", "eval"]
    spec, log = (code.value for code in page.code)
    assert "step_size: 0.01" in spec
    assert log.endswith("step  300/300  loss 1.626")


def test_failed_run_shows_its_error_and_recorded_steps(
    open_page: Open, drawn: Any, demo: Any
) -> None:
    failed = demo.trial("finished", "sign 0.1", 32)
    page = open_page("run", run=failed.digest)
    assert not page.exception
    assert page.error[0].value.startswith("step 141")
    assert "train_one" in page.expander[0].code[0].value
    assert figures(page)["Steps"] == "140 / 300"
    assert drawn(page)["load-over-time"].map().shape == (32, 140)


def test_run_shows_what_the_audit_found_about_it(open_page: Open, demo: Any) -> None:
    page = open_page("run", run=demo.trial("searched", "none", 16).digest)
    assert not page.exception
    assert page.expander[0].label == "Audit, 1 finding: records missing"
    assert page.expander[0].text[0].value.startswith("records missing: Records of 1 trial ")


def test_running_run_shows_its_newest_step(open_page: Open, demo: Any) -> None:
    running = demo.trial("running", "sign 0.05", 16)
    page = open_page("run", run=running.digest, view="Load")
    assert not page.exception
    assert figures(page)["Steps"] == "180 / 300"
    assert "Steps 171 to 180." in _captions(page)


def test_queued_run_waits_without_charts(open_page: Open, drawn: Any, demo: Any) -> None:
    queued = demo.trial("running", "sign 0.05", 32)
    page = open_page("run", run=queued.digest)
    assert not page.exception
    assert "No step is recorded yet" in page.info[0].value
    assert not drawn(page)


def test_run_page_without_a_run_in_the_address_opens_one(open_page: Open, demo: Any) -> None:
    page = open_page("run")
    assert not page.exception
    assert page.query_params["run"] == demo.trials("running")[0].digest


def test_run_links_to_its_sweep_and_to_mlflow(open_page: Open, demo: Any, finished: Any) -> None:
    sweep, mlflow = open_page("run", run=finished.digest).get("page_link")[:2]
    assert sweep.proto.query_string == f"sweep={demo.ids['finished']}"
    assert mlflow.proto.page == f"http://127.0.0.1:5000/#/runs/{finished.run_id}"


def test_page_warns_if_mlflow_is_down_and_shows_its_charts(
    open_page: Open, drawn: Any, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://127.0.0.1:9")
    page = open_page("run", run=finished.digest)
    assert not page.exception
    assert "MLflow does not answer" in page.warning[0].value
    assert len(drawn(page)) == 2


def test_page_links_to_the_ray_dashboard_if_its_url_is_set(
    open_page: Open, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_RAY_DASHBOARD_URL", "http://ray:8265")
    links = open_page("run", run=finished.digest).get("page_link")
    assert "http://ray:8265" in [link.proto.page for link in links]


@pytest.fixture
def torn(demo: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Cuts a file of a run with a detailed evaluation in a copy of the home; gives the digest."""
    home = Path(shutil.copytree(demo.home, tmp_path / "home"))
    use_home(home, monkeypatch)
    trial = demo.trial("finished", "sign 0.01", 32)

    def cut(pattern: str) -> str:
        path = next(Settings(home=home).trial_dir(trial.digest).rglob(pattern))
        path.write_bytes(path.read_bytes()[: 0 if "eval" in pattern else -40])
        return str(trial.digest)

    return cut


def test_damaged_evaluation_is_named_and_the_rest_of_the_view_stays(
    torn: Callable[[str], str], drawn: Any
) -> None:
    page = render("run", run=torn("groups-*.parquet"), view="Experts")
    assert not page.exception
    assert page.warning[0].value.startswith("evaluation/groups-00000300.parquet cannot be read")
    assert set(drawn(page)) == {"co-activation", "onward", "loss-by-k"}


def test_damaged_counts_of_the_evaluation_leave_the_steps(
    torn: Callable[[str], str], drawn: Any
) -> None:
    page = render("run", run=torn("eval-*.parquet"))
    assert not page.exception
    assert "expert_load/eval-00000300.parquet cannot be read" in page.warning[0].value
    assert "load-by-layer" in drawn(page)


def test_damaged_steps_are_named_and_the_count_check_does_not_pass(
    torn: Callable[[str], str],
) -> None:
    page = render("run", run=torn("expert_load/part-*-00000300.parquet"))
    assert not page.exception
    assert "1 file cannot be read, with steps between " in page.warning[0].value
    assert "expert_load/part-" in page.warning[0].value
    assert figures(page)["Count check"] == "1 damaged file"
    assert "No counts can be read for the step 300" in page.warning[1].value


def test_rule_without_biases_has_no_charts_of_them(open_page: Open, drawn: Any, demo: Any) -> None:
    page = open_page("run", run=demo.trial("finished", "aux_loss 0.01", 16).digest, view="Biases")
    assert "has no biases" in page.info[0].value
    assert not drawn(page)


def test_a_running_trial_opens_in_the_cockpit(open_page: Open, drawn: Any, demo: Any) -> None:
    trial = demo.trial("running", "sign 0.002", 32)
    page = open_page("run", run=trial.digest)
    assert not page.exception
    assert list(drawn(page)) == ["worst-layers", "timeline", "load-by-ranks"]
    assert re.search(r"Step \d+, updated .* ago", _captions(page))
    shown = figures(page)
    assert shown["Experts wait"].endswith("%")
    assert shown["Step time lost"].endswith("%")


def test_the_worst_experts_are_named_with_their_layers() -> None:
    util_LE = np.array([[1.0, 0.5, 1.5, 1.0], [0.0, 0.0, 3.5, 0.5]])
    idle_LE = np.array([[0, 0, 0, 0], [7, 90, 0, 0]], np.int32)
    table = cockpit.worst_table(util_LE, idle_LE, ["3", "9"])
    rows = table.to_numpy().tolist()
    assert rows[0] == ["9", 2, 350.0, 0]
    assert [row[:2] for row in rows if row[3]] == [["9", 1], ["9", 0]]  # the longest first


def test_ranks_wait_as_on_the_page_of_costs(open_page: Open, demo: Any, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="Cockpit", ranks="4")
    assert not page.exception
    counts = read_history(Settings(home=demo.home).trial_dir(finished.digest)).count_SLE[-100:]
    stretch = float((1 / ep_effective_util(counts, 4)).mean())
    assert figures(page)["Experts wait"] == f"{1 - 1 / stretch:.1%}"
