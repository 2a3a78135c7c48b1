from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from evenload.pipeline.figures.evaluation import Detail, GroupScores, LossByK, Routes
from evenload.pipeline.figures.loads import utilisation
from evenload.pipeline.records import evaluation_arrays
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings

Open = Callable[..., AppTest]


def _charts(page: AppTest) -> list[list[dict[str, Any]]]:
    return [json.loads(chart.proto.spec)["data"] for chart in page.get("plotly_chart")]


def _by_key(page: AppTest, *keys: str) -> list[list[dict[str, Any]]]:
    """The traces of the charts with these keys; there must be no other chart."""
    charts = {
        key: json.loads(chart.proto.spec)["data"]
        for chart in page.get("plotly_chart")
        for key in keys
        if chart.proto.id.endswith(f"-{key}")
    }
    assert len(page.get("plotly_chart")) == len(keys)
    return [charts[key] for key in keys]


def _array(sent: dict[str, str]) -> Any:
    kinds = {"i1": np.int8, "i2": np.int16, "f4": np.float32, "f8": np.float64, "i4": np.int32}
    flat = np.frombuffer(base64.b64decode(sent["bdata"]), kinds[sent["dtype"]])
    shape = [int(n) for n in sent.get("shape", str(len(flat))).split(",")]
    return flat.reshape(shape)


def _metrics(page: AppTest) -> dict[str, str]:
    return {metric.label: str(metric.value) for metric in page.metric}


def _windows(page: AppTest) -> Any:
    """The button group with the number of summed steps."""
    return page.get("button_group")[1]


def _captions(page: AppTest) -> str:
    return " ".join(str(caption.value) for caption in page.caption)


@pytest.fixture
def finished(demo: Any) -> Any:
    return demo.trial("finished", "sign 0.01", 16)


def test_load_maps_hold_the_recorded_loads(open_page: Open, demo: Any, finished: Any) -> None:
    page = open_page("run", run=finished.digest)
    assert not page.exception
    (by_layer,), (over_time,) = _charts(page)
    history = read_history(Settings(home=demo.home).trial_dir(finished.digest))
    last_ten_LE = utilisation(history.count_SLE[-10:].sum(axis=0))
    np.testing.assert_allclose(_array(by_layer["z"]), 100 * last_ten_LE, atol=1)
    layer_SE = utilisation(history.count_SLE[:, 0])
    np.testing.assert_allclose(_array(over_time["z"]).T, 100 * layer_SE, atol=1)


def test_slider_and_window_choose_the_steps_of_the_map(
    open_page: Open, demo: Any, finished: Any
) -> None:
    page = open_page("run", run=finished.digest)
    page.slider[0].set_value(20)
    _windows(page).set_value("1 step")
    page.run()
    history = read_history(Settings(home=demo.home).trial_dir(finished.digest), first=20, last=20)
    expected_LE = 100 * utilisation(history.count_SLE[0])
    np.testing.assert_allclose(_array(_charts(page)[0][0]["z"]), expected_LE, atol=1)
    assert "Steps 20 to 20." in _captions(page)


def test_evaluation_load_can_be_shown(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest)
    _windows(page).set_value("evaluation")
    page.run()
    assert not page.exception
    assert "whole evaluation set" in _captions(page)


def test_summary_shows_the_figures_of_the_trial(open_page: Open, finished: Any) -> None:
    shown = _metrics(open_page("run", run=finished.digest))
    assert shown["Steps"] == "300 / 300"
    assert shown["Validation loss"] == f"{finished.result['val_bits_per_byte']:.3f}"
    assert shown["MaxVio"] == f"{finished.result['max_vio']:.2f}"
    assert shown["Sampling floor"] == f"{finished.result['max_vio_floor']:.2f}"
    assert shown["Idle experts"] == f"{finished.result['idle_frac']:.1%}"
    assert shown["Count check"] == "passed"


def test_balance_view_has_max_vio_idle_experts_and_streaks(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="Balance")
    assert not page.exception
    max_vio, idle, streak, streaks = _by_key(page, "max-vio", "idle", "idle-streak", "idle-streaks")
    assert [trace["name"] for trace in max_vio[:4]] == [f"layer {n}" for n in range(1, 5)]
    assert max_vio[4]["name"].startswith("sampling floor")
    assert idle[4]["name"].startswith("by chance")
    assert len(streak) == 4
    longest = np.nanmax(_array(streaks[0]["z"]))
    assert longest == finished.result["idle_streak_max"]
    assert longest == max(_array(line["y"]).max() for line in streak)


def test_biases_view_has_paths_drift_and_spread(open_page: Open, demo: Any, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="Biases", layer="2")
    assert not page.exception
    paths, drift, spread = _by_key(page, "bias", "bias-drift", "bias-spread")
    bias_SE = read_history(Settings(home=demo.home).trial_dir(finished.digest)).bias_SLE[:, 1]
    assert len(paths) == 16
    ends = sorted(float(_array(line["y"])[-1]) for line in paths)
    np.testing.assert_allclose(ends, np.sort(bias_SE[-1]), rtol=1e-5)
    assert _array(spread[1]["y"])[-1] == pytest.approx(np.ptp(bias_SE[-1]), rel=1e-5)
    assert _array(drift[1]["y"])[-1] == pytest.approx(np.abs(np.diff(bias_SE[-2:], axis=0)).mean())


def test_training_view_has_loss_throughput_gradient_and_rate(
    open_page: Open, finished: Any
) -> None:
    page = open_page("run", run=finished.digest, view="Training")
    loss, throughput, norm, rate = _by_key(page, "loss", "throughput", "grad-norm", "learning-rate")
    assert len(_array(loss[0]["y"])) == 300
    assert _array(throughput[0]["y"]).mean() == pytest.approx(
        finished.result["tokens_per_second"], rel=0.02
    )
    assert _array(norm[0]["y"]).min() >= 1
    assert set(_array(rate[0]["y"])) == {np.float32(3e-3)}


def test_system_view_shows_the_samples_of_the_host(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="System")
    assert not page.exception
    keys = ("processor-percent", "memory-gib", "host-load", "host-memory-percent")
    charts = [json.loads(chart.proto.spec) for chart in page.get("plotly_chart")]
    assert len(charts) >= len(keys)
    steps = _array(charts[0]["data"][0]["x"])
    assert steps.tolist() == list(range(10, 301, 10))
    assert (_array(charts[1]["data"][0]["y"]) > 0).all()


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
    open_page: Open, demo: Any, finished: Any
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
    domains, special, loss, pairs, onward, by_k = _by_key(page, *keys, "loss-by-k")
    expected_E = 100 * np.arange(E, 2 * E) / np.arange(E, 2 * E).mean()
    np.testing.assert_allclose(_array(domains[0]["z"])[1], expected_E, atol=1)
    assert len(_array(special[0]["y"])) == L
    assert _array(loss[0]["x"]).tolist() == [2.5, 1.5]
    assert np.isnan(np.diagonal(_array(pairs[0]["z"]))).all()
    assert _array(onward[0]["z"]).shape == (E, E)
    assert _array(by_k[1]["x"]).tolist() == [2]


def test_record_view_has_figures_spec_attempts_and_log(open_page: Open, finished: Any) -> None:
    page = open_page("run", run=finished.digest, view="Record")
    assert not page.exception
    figures, attempts = (frame.value for frame in page.dataframe)
    assert "val_bits_per_byte" in figures.Name.tolist()
    assert attempts.Work.tolist() == ["train", "eval"]
    spec, log = (code.value for code in page.code)
    assert "step_size: 0.01" in spec
    assert log.endswith("step  300/300  loss 1.626")


def test_failed_run_shows_its_error_and_recorded_steps(open_page: Open, demo: Any) -> None:
    failed = demo.trial("finished", "sign 0.1", 32)
    page = open_page("run", run=failed.digest)
    assert not page.exception
    assert page.error[0].value.startswith("FloatingPointError: step 141")
    assert "train_one" in page.expander[0].code[0].value
    assert _metrics(page)["Steps"] == "140 / 300"
    assert _array(_charts(page)[1][0]["z"]).shape == (32, 140)


def test_running_run_shows_its_newest_step(open_page: Open, demo: Any) -> None:
    running = demo.trial("running", "sign 0.05", 16)
    page = open_page("run", run=running.digest)
    assert not page.exception
    assert _metrics(page)["Steps"] == "180 / 300"
    assert "Steps 171 to 180." in _captions(page)


def test_queued_run_waits_without_charts(open_page: Open, demo: Any) -> None:
    queued = demo.trial("running", "sign 0.05", 32)
    page = open_page("run", run=queued.digest)
    assert not page.exception
    assert "No step is recorded yet" in page.info[0].value
    assert not page.get("plotly_chart")


def test_run_page_without_a_run_in_the_address_opens_one(open_page: Open, demo: Any) -> None:
    page = open_page("run")
    assert not page.exception
    assert page.query_params["run"] == demo.trials("running")[0].digest


def test_run_links_to_its_sweep_and_to_mlflow(open_page: Open, demo: Any, finished: Any) -> None:
    sweep, mlflow = open_page("run", run=finished.digest).get("page_link")[:2]
    assert sweep.proto.query_string == f"sweep={demo.ids['finished']}"
    assert mlflow.proto.page == f"http://127.0.0.1:5000/#/runs/{finished.run_id}"


def test_page_warns_if_mlflow_is_down_and_shows_its_charts(
    open_page: Open, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_TRACKING_URI", "http://127.0.0.1:9")
    page = open_page("run", run=finished.digest)
    assert not page.exception
    assert "MLflow does not answer" in page.warning[0].value
    assert len(_charts(page)) == 2


def test_page_links_to_the_ray_dashboard_if_its_url_is_set(
    open_page: Open, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENLOAD_RAY_DASHBOARD_URL", "http://ray:8265")
    links = open_page("run", run=finished.digest).get("page_link")
    assert "http://ray:8265" in [link.proto.page for link in links]
