"""One run: what every expert did, step by step, and what it cost."""

from __future__ import annotations

from functools import partial

import streamlit as st
import yaml

from dashboard import queries
from dashboard.charts import balance, biases, loads, training
from dashboard.frame import card, chosen, heading, live, metrics, plot
from dashboard.frames import attempt_table, figure, figure_table, label_of, spec_of, trial_labels
from dashboard.wording import TRIAL_STATES, number
from pipeline.load_metrics import idle_expected, max_vio_floor
from pipeline.records import TrialRecord, TrialState
from pipeline.tracking.load_series import LoadSeries

VIEWS = ("Load", "Balance", "Training", "Record")
WINDOWS = {"1 step": 1, "10 steps": 10, "100 steps": 100}
EVALUATION = "evaluation"
FOLD_HEIGHT = 420  # of long texts and tables: pixels


def main() -> None:
    sweeps = {sweep.sweep_id: trials for sweep, trials in queries.sweeps()}
    wanted = st.query_params.get("run")
    holders = [name for name, trials in sweeps.items() if wanted in {t.digest for t in trials}]
    sweep_id = next(iter(holders or [name for name, trials in sweeps.items() if trials]), None)
    if sweep_id is None:
        st.title("Run", anchor=False)
        st.info("No trials yet. `evenload quickstart` runs a small sweep.")
        return
    labels = trial_labels(sweeps[sweep_id])
    title, choice = st.columns([3, 2], vertical_alignment="center")
    with choice:
        digest = chosen("Run", list(labels), "run", labels.__getitem__)
    trial = queries.trial(digest)
    with title:
        heading(label_of(trial), TRIAL_STATES[trial.state])
    _links(trial, sweep_id)
    if trial.error and trial.state is TrialState.FAILED:
        st.error(trial.error.strip().splitlines()[-1], icon=":material/error:")
        with st.expander("Traceback"):
            st.code(trial.error, language="python")
    live(partial(_body, digest), lambda: queries.trial(digest).state.is_final)


def _links(trial: TrialRecord, sweep_id: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            "app_pages/sweep.py",
            label=f"Sweep {sweep_id}",
            icon=":material/grid_view:",
            query_params={"sweep": sweep_id},
        )
        url = queries.mlflow_run_url(trial)
        if url:
            st.page_link(url, label="MLflow run", icon=":material/open_in_new:")
        st.caption(f"trial `{trial.digest}`, attempt {trial.attempt}")


def _body(digest: str) -> None:
    trial = queries.trial(digest)
    with st.spinner("Reading the run's steps", show_time=True):
        series = queries.load_series(trial)
    _summary(trial, series)
    view = st.segmented_control(
        "View",
        VIEWS,
        default=VIEWS[0],
        key="view",
        bind="query-params",
        label_visibility="collapsed",
        required=True,
    )
    if view == "Record":
        _record(trial)
    elif series.is_empty:
        st.info("No step is recorded yet. This page fills as soon as the trial trains.")
    elif view == "Balance":
        _balance(trial, series)
    elif view == "Training":
        _training(series)
    else:
        _load(trial, series)


def _summary(trial: TrialRecord, series: LoadSeries) -> None:
    spec = spec_of(trial)
    floor = max_vio_floor(spec.train.tokens_per_step, spec.model.num_experts, spec.model.top_k)
    when, vio, idle, busy = _balance_figures(trial, series)
    wrong = series.miscounted_steps
    check = "–" if series.is_empty else "passed" if not wrong else f"{wrong} steps wrong"
    metrics(
        ("Steps", f"{series.last_step:,} / {spec.train.steps:,}", ""),
        ("Loss, held out", number(figure(trial, "val_bits_per_byte"), 3), "bits per byte"),
        ("MaxVio", number(vio, 2), f"largest load over fair share, minus 1; {when}"),
        ("Sampling floor", number(floor, 2), "MaxVio of a fair router, by chance alone"),
        ("Idle experts", number(idle, 1, " %"), f"without a token in one step; {when}"),
        ("Utilisation", number(busy, 0, " %"), f"mean over largest load; {when}"),
        ("Count check", check, "tokens × top-k assignments in every layer of every step"),
    )


def _balance_figures(trial: TrialRecord, series: LoadSeries) -> tuple[str, float, float, float]:
    """Over what, MaxVio, idle and utilisation: the steady figures, before them the newest ones."""
    if "max_vio" in trial.result or series.is_empty:
        vio, idle = figure(trial, "max_vio"), figure(trial, "idle_frac")
        return "mean of the last quarter", vio, idle, figure(trial, "effective_util")
    vio_L = series.max_vio_BL[-1]
    newest = "newest step" if series.bin_steps == 1 else f"newest {series.bin_steps} steps"
    idle, busy = float(series.idle_BL[-1].mean()), float((1 / (1 + vio_L)).mean())
    return newest, float(vio_L.mean()), 100 * idle, 100 * busy


def _load(trial: TrialRecord, series: LoadSeries) -> None:
    names = _layer_names(trial)
    with card("Load by layer and expert", metric="utilisation"):
        _load_by_layer(trial, series, names)
    with card("Load of one layer over time", metric="utilisation"):
        layer = names.index(_layer(names, "load-layer"))
        plot(
            loads.load_over_time(series.percent_BE(layer), series.step_B),
            key="load-over-time",
            caption=_bins(series) + "Loads above 2× are drawn as 2×; idle is idle all the bin.",
        )


def _load_by_layer(trial: TrialRecord, series: LoadSeries, names: list[str]) -> None:
    step, summed, order = st.columns([4, 2.6, 1.3], vertical_alignment="bottom")
    evaluated_LE = queries.eval_percent(trial)
    windows = [*WINDOWS] if evaluated_LE is None else [*WINDOWS, EVALUATION]
    window = summed.segmented_control("Summed over", windows, default=windows[1], required=True)
    # Up to the planned end: a slider whose range grew with the run would jump on each refresh.
    end = max(2, series.last_step if trial.state.is_final else spec_of(trial).train.steps)
    last = step.slider("Last step", 1, end, end, disabled=window == EVALUATION)
    is_sorted = order.toggle("Sort experts", help="busiest first in each layer")
    if window == EVALUATION and evaluated_LE is not None:
        percent_LE, covered = evaluated_LE, "The whole evaluation set, biases frozen."
    else:
        steps = WINDOWS.get(window or "", 1)
        shown = queries.load_window(trial, min(last, series.last_step), steps)
        percent_LE, covered = shown.percent_LE, f"Steps {shown.first:,} to {shown.last:,}."
    plot(
        loads.load_by_layer(percent_LE, names, is_sorted),
        key="load-by-layer",
        caption=f"{covered} Loads above 2× are drawn as 2×.",
    )


def _balance(trial: TrialRecord, series: LoadSeries) -> None:
    spec, names = spec_of(trial), _layer_names(trial)
    tokens, experts, top_k = spec.train.tokens_per_step, spec.model.num_experts, spec.model.top_k
    left, right = st.columns(2)
    with left, card("MaxVio by layer", metric="max_vio"):
        floor = max_vio_floor(tokens, experts, top_k)
        plot(
            balance.max_vio_over_time(series.max_vio_BL, series.step_B, names, floor),
            key="max-vio",
            caption=_bins(series) + "Dashed: what a fair router shows by chance.",
        )
    with right, card("Idle experts by layer", metric="idle_frac"):
        expected = idle_expected(tokens, experts, top_k)
        plot(
            balance.idle_over_time(series.idle_BL, series.step_B, names, expected),
            key="idle",
            caption=_bins(series) + "Dashed: what uniform random routing leaves idle.",
        )
    with card("Bias of each expert", metric="bias"):
        layer = names.index(_layer(names, "bias-layer"))
        plot(
            biases.bias_paths(series.bias_BE(layer), series.step_B),
            key="bias",
            caption="Coloured by where each expert ends: blue is held back, orange is helped.",
        )


def _training(series: LoadSeries) -> None:
    left, right = st.columns(2)
    with left, card("Training loss", metric="train_loss"):
        plot(
            training.loss_curve(series.loss_B, series.loss_max_B, series.step_B),
            key="loss",
            caption=_bins(series),
        )
    with right, card("Throughput", metric="tokens_per_second"):
        plot(
            training.throughput_curve(series.tokens_per_second_B, series.step_B),
            key="throughput",
            caption=_bins(series),
        )


def _record(trial: TrialRecord) -> None:
    left, right = st.columns(2)
    with left, card("Final figures", "As the store keeps them; steady is the last quarter."):
        st.dataframe(figure_table(trial), hide_index=True, height=FOLD_HEIGHT)
    with right, card("Specification", "Resolved: every default and every `auto` in full."):
        st.code(yaml.safe_dump(trial.spec, sort_keys=False), language="yaml", height=FOLD_HEIGHT)
    with card(
        "Attempts", "Every claim of the trial; training and evaluation are claims of their own."
    ):
        st.dataframe(
            attempt_table(queries.attempts(trial.digest)), hide_index=True, placeholder="–"
        )
    tail = queries.log_tail(trial.digest)
    with card("Log", "The end of the newest log file."):
        if tail is None:
            st.caption("No log file is here.")
        else:
            st.caption(tail[0])
            st.code(tail[1], language=None)


def _layer_names(trial: TrialRecord) -> list[str]:
    """Counted as in the model: dense layers come first and have no experts."""
    model = spec_of(trial).model
    return [str(model.num_dense_layers + index) for index in range(model.num_moe_layers)]


def _layer(names: list[str], key: str) -> str:
    return st.selectbox(
        "Layer", names, key=key, format_func=lambda name: f"layer {name}", width=180
    )


def _bins(series: LoadSeries) -> str:
    if series.bin_steps == 1:
        return "Every step. "
    return f"Bins of {series.bin_steps:,} steps, the largest value of each. "


main()
