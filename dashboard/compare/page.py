"""Compares two to eight runs, which may have different numbers of experts."""

from functools import partial

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard import page_parts, queries, shown_runs
from evenload.dashboard.compare import tables
from evenload.dashboard.loss_unit import NATS, choose_loss_unit, unit_of_runs
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.shown_runs import Run
from evenload.pipeline.charts.comparison import RunCurve, load_by_rank, run_curves
from evenload.pipeline.charts.loads import load_by_rank_and_depth, load_difference
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.sweep.audit import Finding
from evenload.pipeline.sweep.axes import axes_of

WINDOWS = {"last step": 1, "last 10 steps": 10, "last 100 steps": 100}
EVALUATION = "evaluation"
AXES = ("tokens", "steps", "share of the run")
MAP_WIDTH = 2  # maps beside each other

Runs = dict[str, Run]


def main() -> None:
    title, unit = st.columns([5, 2], vertical_alignment="center")
    title.title("Compare", anchor=False)
    with unit:
        choose_loss_unit()
    options = _options()
    if len(options) < 2:
        st.info("This page needs two runs. `evenload quickstart` runs a small sweep.")
        return
    digests = _chosen(options)
    if len(digests) < 2:
        st.info(
            f"Choose 2 to {tables.MOST_RUNS} runs above; they may differ in everything.",
            icon=":material/compare_arrows:",
        )
        return
    page_parts.audit_note(_findings(digests))
    page_parts.live(partial(_body, digests), partial(_is_over, digests))


def _asked() -> list[str]:
    """The runs of the address (`?runs=digest,digest`), or else those that were selected last."""
    asked, kept = st.query_params.get("runs"), st.session_state.get(page_parts.KEPT_RUNS, ())
    return [digest for digest in (kept if asked is None else asked.split(",")) if digest]


def _options() -> dict[str, str]:
    """Key -> name of recorded runs, and of started trials of one sweep and of those asked for."""
    known, holders = shown_runs.sweep_ids(), []
    if known:
        holders = queries.sweeps_of(*_asked())
        kept = [*holders, st.session_state.get(page_parts.KEPT_SWEEP)]
        start = next((known.index(name) for name in kept if name in known), 0)
        holders = [st.selectbox("Take runs of", known, index=start), *holders]
    options: dict[str, str] = {}
    for sweep, trials in map(queries.sweep, dict.fromkeys(holders)):
        axes = axes_of(trials)
        started = [trial for trial in trials if trial.state is not TrialState.QUEUED]
        options |= {trial.digest: f"{axes.name(trial)} · {sweep.name}" for trial in started}
    return options | {
        key: f"{run.name}, {run.shape.num_experts} experts · {run.source}"
        for key, run in shown_runs.recorded().items()
    }


def _chosen(options: dict[str, str]) -> list[str]:
    """The chosen runs, which are also part of the address."""
    named = _asked()
    if unknown := [digest for digest in named if digest not in options]:
        st.error(for_markdown(f"Not known here, or not started: {', '.join(unknown)}."))
    named = [digest for digest in named if digest in options]
    digests = st.multiselect(
        "Runs",
        list(options),
        default=named[: tables.MOST_RUNS],
        format_func=options.__getitem__,
        max_selections=tables.MOST_RUNS,
        placeholder="Choose runs: type a rule or a number of experts",
    )
    if digests != named or "runs" not in st.query_params:
        st.query_params["runs"] = ",".join(digests)
    return digests


def _findings(digests: list[str]) -> list[Finding]:
    """What the audit found about the chosen trials, sweep by sweep."""
    trials = [digest for digest in digests if digest not in shown_runs.recorded()]
    return [
        finding
        for sweep_id in (queries.sweeps_of(*trials) if trials else [])
        if (held := [t.digest for t in queries.sweep(sweep_id)[1] if t.digest in digests])
        for finding in queries.findings(sweep_id, *held)
    ]


def _is_over(digests: list[str]) -> bool:
    return all(shown_runs.is_over(shown_runs.find(digest)) for digest in digests)


def _body(digests: list[str]) -> None:
    found = [shown_runs.find(digest) for digest in digests]
    runs = dict(zip(_names(found), found, strict=True))
    series = {name: run_queries.load_series(trial) for name, trial in runs.items()}
    _figures(runs, series)
    recorded = {name: trial for name, trial in runs.items() if not series[name].is_empty}
    waiting = [name for name in runs if name not in recorded]
    if waiting:
        st.info(f"Without recorded steps yet: {for_markdown(', '.join(waiting))}.")
    if recorded:
        _over_time(recorded, series)
        _loads(recorded)


def _names(runs: list[Run]) -> list[str]:
    """Short and unique names of the runs."""
    axes = axes_of([run for run in runs if isinstance(run, TrialRecord)])
    short = [axes.both(run) if isinstance(run, TrialRecord) else run.name for run in runs]
    return [
        name if short.count(name) == 1 else f"{name} ({shown_runs.key_of(run)[:6]})"
        for name, run in zip(short, runs, strict=True)
    ]


def _figures(runs: Runs, series: dict[str, LoadSeries]) -> None:
    tokens = {name: shown_runs.tokens_of(run, series[name]) for name, run in runs.items()}
    unit = unit_of_runs(runs.values())
    table = tables.comparison_table(runs, unit).assign(tokens_per_step=list(tokens.values()))
    with page_parts.card(
        "Figures", "Means over the last quarter of the steps; the loss is held-out."
    ):
        config = st.column_config
        st.dataframe(
            table,
            hide_index=True,
            placeholder="–",
            column_config={
                "run": config.TextColumn("Run", pinned=True),
                "state": config.TextColumn("State"),
                "experts": config.NumberColumn("Experts"),
                "top_k": config.NumberColumn("Top-k"),
                "layers": config.NumberColumn("Expert layers"),
                "tokens_per_step": config.NumberColumn("Tokens/step", format="localized"),
                "steps": config.NumberColumn("Steps", format="localized"),
                **page_parts.metric_columns(map(METRICS.__getitem__, tables.FIGURES), unit),
            },
        )
        reasons = tables.incomparable(list(runs.values()))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(
                for_markdown(
                    f"The losses are not comparable: {'; '.join(reasons)}." if reasons else ""
                ),
                width="stretch",
            )
            page_parts.export(lambda: table, "compare-figures")
    differing = tables.spec_differences(runs)
    with st.expander(f"What differs: {len(differing)} settings", icon=":material/difference:"):
        st.dataframe(differing, hide_index=True, placeholder="nothing but the seed")


def _over_time(runs: Runs, series: dict[str, LoadSeries]) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="large"):
        axis = page_parts.switch("Over", AXES, "over")
        is_over_floor = st.toggle(
            "MaxVio as a multiple of its floor",
            key="floor",
            bind="query-params",
            help="The floor depends on experts, top-k and tokens per step. Multiples of it can be "
            "compared between runs that differ in them.",
        )
    title = "optimizer step" if axis == "steps" else axis + (", %" if axis == AXES[2] else "")
    left, right = st.columns(2)
    with left, page_parts.card("MaxVio, mean over layers", metric="max_vio"):
        drawn = {
            name: _vio_curve(trial, series[name], axis, is_over_floor)
            for name, trial in runs.items()
        }
        unit = "MaxVio / floor" if is_over_floor else "MaxVio (max load / fair share − 1)"
        chart = run_curves(drawn, title, unit)
        caption = "Largest value of each bin of time. Dotted: the sampling floor of each run."
        page_parts.plot(chart, "compare-max-vio", caption)
    with right, page_parts.card("Training loss", metric="train_loss"):
        losses, of_loss = {}, unit_of_runs(runs.values(), NATS)
        for name, run in runs.items():
            told = np.isfinite(series[name].loss_B)
            if told.any():
                x_B = _x(run, series[name], axis)[told]
                losses[name] = RunCurve(x_B, of_loss.factor * series[name].loss_B[told])
        chart = run_curves(losses, title, f"loss, {of_loss.name}")
        page_parts.plot(chart, "compare-loss", "Mean over each bin of time.")


def _vio_curve(run: Run, series: LoadSeries, axis: str, is_over_floor: bool) -> RunCurve:
    floor = shown_runs.chance(run, series).max_vio_floor
    scale = floor if is_over_floor and floor > 0 else 1.0
    vio_B = series.max_vio_BL.mean(axis=-1) / scale
    return RunCurve(_x(run, series, axis), vio_B.astype(np.float32), floor / scale)


def _x(run: Run, series: LoadSeries, axis: str) -> NDArray[np.float64]:
    scale = {
        "tokens": float(shown_runs.tokens_of(run, series)),
        "steps": 1.0,
        "share of the run": 100 / shown_runs.steps_of(run, series),
    }[axis]
    return series.step_B.astype(np.float64) * scale


def _loads(runs: Runs) -> None:
    evaluated: dict[str, NDArray[np.int16] | None] = dict.fromkeys(runs)
    for name, run in runs.items():
        with page_parts.readable_errors():  # a damaged file leaves the loads of steps
            evaluated[name] = run_queries.eval_percent(run)
    can_evaluate = all(percent_LE is not None for percent_LE in evaluated.values())
    windows = [*WINDOWS, EVALUATION] if can_evaluate else [*WINDOWS]
    window = page_parts.switch("Loads of the", windows, "window", windows.index("last 100 steps"))
    percent = {}
    for name, trial in runs.items():
        evaluated_LE = evaluated[name]
        if window == EVALUATION and evaluated_LE is not None:
            percent[name] = evaluated_LE
        else:
            last = run_queries.load_series(trial).last_step
            steps = WINDOWS.get(window, 1)
            percent[name] = run_queries.load_window(trial, last, steps).percent_LE
    with page_parts.card("Load by rank of the expert", metric="utilisation"):
        mean = {name: tables.by_rank(load_LE).mean(axis=0) for name, load_LE in percent.items()}
        chart = load_by_rank(mean)
        caption = "Mean over layers. Dashed: the fair share. An even load is a flat line."
        page_parts.plot(chart, "compare-rank", caption)
    _maps(percent)


def _maps(percent: dict[str, NDArray[np.int16]]) -> None:
    st.subheader("Load by depth and rank", anchor=False)
    columns = st.columns(MAP_WIDTH)
    for index, (name, load_LE) in enumerate(percent.items()):
        with columns[index % MAP_WIDTH], page_parts.card(name, metric="utilisation"):
            chart = load_by_rank_and_depth(tables.at_shares(load_LE), name)
            caption = f"{load_LE.shape[1]} experts in {len(load_LE)} layers."
            page_parts.plot(chart, f"compare-map-{index}", caption)
    if len(percent) < 2:
        return
    st.subheader("Differences", anchor=False)
    reference = str(
        st.selectbox("Against", list(percent), key="against", bind="query-params", width=360)
    )
    columns = st.columns(MAP_WIDTH)
    for index, name in enumerate(name for name in percent if name != reference):
        with (
            columns[index % MAP_WIDTH],
            page_parts.card(f"{name} − {reference}", metric="difference"),
        ):
            chart = load_difference(
                tables.difference(percent[name], percent[reference]), name, reference
            )
            caption = "Orange: more load at this rank; blue: less."
            page_parts.plot(chart, f"compare-difference-{index}", caption)


main()
