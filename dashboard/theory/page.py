"""Simulations of rules on streams of scores, compared with the theory of the dual problem."""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from evenload.dashboard import controls
from evenload.dashboard.page_parts import card, chosen, live, metrics, number_field, plot
from evenload.dashboard.theory import queries as simulation_queries
from evenload.dashboard.theory import simulation_processes as processes
from evenload.dashboard.theory import tables
from evenload.pipeline.charts import simulation as charts
from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.wording import number
from evenload.pipeline.records.recorded_runs import FOLDER
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.simulation import ACTS_IN_TRAINING, SimulationSpec

# The streams of scores that the form offers.
STREAMS: dict[str, dict[str, Any]] = {
    "constant": {"kind": "gaussian"},
    "slow drift": {"kind": "gaussian", "drift": 0.002},
    "fast drift": {"kind": "gaussian", "drift": 0.02},
    "jump halfway": {"kind": "gaussian", "jump_at": 0.5},
    "heavy tails": {"kind": "heavy_tailed"},
    "correlated sequences": {"kind": "correlated"},
    "Zipf tokens": {"kind": "zipf"},
    "adversarial": {"kind": "adversarial"},
}
RULES = [kind for kind in BALANCERS if kind not in ACTS_IN_TRAINING]
STARTING_RULES = ["none", "sign", "proportional", "self_tuned"]
STEP_SIZES = [0.001, 0.003, 0.01, 0.03, 0.1]
MAX_RULES = 12  # number of lines that can be told apart in a chart


def main() -> None:
    st.title("Theory", anchor=False)
    st.caption(
        "Balancing rules on streams of router scores, without a model: how evenly they balance, "
        "their regret against the best fixed bias, and whether the theory of the dual holds."
    )
    known = simulation_queries.simulations().known()
    if controls.are_enabled():
        _form(is_open=not known)
    else:
        st.info(
            f"This dashboard may not start simulations. {controls.REMEDY} Or run "
            "`evenload simulate FILE` yourself.",
            icon=":material/lock:",
        )
    if not known:
        st.info("No simulation yet; one takes about 15 seconds.", icon=":material/science:")
        return
    digest = chosen("Simulation", known, "simulation", _named)
    live(partial(_body, digest), partial(_is_over, digest))


def _is_over(digest: str) -> bool:
    state = simulation_queries.simulations().status(digest).state
    return state is not processes.SimulationState.RUNNING


def _named(digest: str) -> str:
    try:
        spec = simulation_queries.simulations().spec(digest)
    except SpecError:
        return f"{digest}: unreadable"
    streams = ", ".join(spec.streams)
    size = f"{spec.num_experts} experts, top-{spec.top_k}, {spec.steps:,} steps"
    return f"{streams}: {len(spec.rules)} rules, {size}"


def _form(is_open: bool) -> None:
    recorded = {f"recorded: {_file_or_run(path)}": path for path in simulation_queries.recordings()}
    with (
        st.expander("New simulation", icon=":material/science:", expanded=is_open),
        st.form("simulation", border=False),
    ):
        scores, rules, sizes = st.columns([2, 3, 2])
        stream = scores.selectbox(
            "Scores",
            [*STREAMS, *recorded],
            help="the scores of the router at every step. To record them, run "
            "`evenload train TRIAL.yaml --record-scores .evenload/NAME.npz`",
        )
        kinds = rules.multiselect("Rules", RULES, default=STARTING_RULES)
        steps = sizes.multiselect(
            "Step sizes",
            STEP_SIZES,
            default=[0.01],
            accept_new_options=True,
            help="for every rule with a step size",
        )
        columns = st.columns(6)
        schedule = columns[0].selectbox("Schedule", ["constant", "inverse_sqrt", "inverse"])
        experts = columns[1].select_slider("Experts", [8, 16, 32, 64, 128], 32)
        problems: list[str] = []
        top_k = number_field(columns[2], "Top-k", 1, 16, 4, problems)
        tokens = columns[3].select_slider("Tokens per step", [256, 512, 1024, 2048, 4096], 1024)
        length = columns[4].select_slider("Steps", [50, 100, 200, 300, 500, 1000], 200)
        seeds = number_field(columns[5], "Seeds", 1, 5, 2, problems)
        if recorded:
            st.caption("A recording has its own experts, top-k, tokens and steps.")
        is_asked = st.form_submit_button("Run the simulation", type="primary")
    if is_asked and problems:
        raise SpecError("; ".join(problems))
    if is_asked:
        size = processes.Size(length, seeds, tokens, experts, top_k)
        _start(stream, recorded.get(stream), _rules(kinds, steps, schedule), size)


def _file_or_run(path: Path) -> str:
    return path.parent.name if path.parent.parent.name == FOLDER else path.name


def _rules(kinds: list[str], steps: list[Any], schedule: str) -> list[dict[str, Any]]:
    """The rules of the simulation's spec, with all step sizes for rules that have one."""
    rules: list[dict[str, Any]] = []
    for kind in kinds:
        params = BALANCERS[kind].params
        paced = {"schedule": schedule} if "schedule" in params else {}
        sized = {"step_size": steps} if "step_size" in params and steps else {}
        rules.append({"kind": kind, **sized, **paced})
    return rules


def _start(
    name: str, recording: Path | None, rules: list[dict[str, Any]], size: processes.Size
) -> None:
    stream = STREAMS.get(name, {})
    if recording is not None:
        size = processes.recording_size(recording)
        stream = {"kind": "recorded", "path": str(recording)}
    try:
        content = {"streams": {name: stream}, "rules": rules, **size._asdict()}
        spec = SimulationSpec.model_validate(content)
    except ValidationError as error:
        raise SpecError(first_message(error)) from None
    if len(spec.rules) > MAX_RULES:
        raise SpecError(f"{len(spec.rules)} rules are too many; choose at most {MAX_RULES}")
    processes.check_size(spec)
    st.query_params["simulation"] = simulation_queries.simulations().start(spec)
    st.rerun()


def _body(digest: str) -> None:
    simulations = simulation_queries.simulations()
    status = simulations.status(digest)
    if status.state is processes.SimulationState.RUNNING:
        st.progress(status.share, text=f"Simulating: {for_markdown(status.note)}")
        if controls.are_enabled() and st.button("Cancel", icon=":material/cancel:"):
            simulations.cancel(digest)
            st.rerun()
    elif status.state is processes.SimulationState.FAILED:
        st.error("The simulation ended without a result.", icon=":material/error:")
        st.code(status.note, language=None)
        if controls.are_enabled() and st.button("Run it again", icon=":material/replay:"):
            simulations.start(simulations.spec(digest))
            st.rerun()
    else:
        _result(digest, simulation_queries.simulation_result(digest))


def _result(digest: str, document: tables.Document) -> None:
    streams = tables.streams_of(document)
    stream = streams[0]
    if len(streams) > 1:
        picked = st.segmented_control("Scores", streams, default=stream, required=True)
        stream = picked or stream
    table = tables.row_table(document, stream)
    floor = tables.floor_of(document, stream)
    best = table.iloc[int(table.max_vio.argmin())]
    metrics(
        ("Most even rule", str(best.rule), "smallest MaxVio in the steady state"),
        ("Its MaxVio", number(best.max_vio), "mean over the last 40 % of the steps"),
        ("Sampling floor", number(floor), "MaxVio of a fair router by chance"),
        ("Over the floor", number(best.ratio, ".2f", " ×"), "1 is as even as chance allows"),
    )
    curves = tables.regret_curves(document, stream)
    left, right = st.columns(2)
    with left, card("MaxVio", metric="max_vio"):
        vio_N = simulation_queries.simulated_max_vio(digest)
        ordered = {rule: vio_N[stream, rule] for rule in table.rule}
        plot(charts.simulated_max_vio(ordered, floor), "simulated-max-vio", _pooled(document))
    with right, card("Regret", metric="regret"):
        caption = "Dotted: the growth law with the best fit. First seed, 256 tokens of every step."
        plot(charts.regret_growth(curves), "regret", caption)
    with left, card("Descent of the dual", metric="dual_gap"):
        mean = f"Running mean over {charts.GAP_POINTS} points"
        caption = f"{mean}; values at or below zero are not drawn."
        plot(charts.dual_descent(curves), "dual-descent", caption)
    values_E = tables.spectrum_E(document, stream)
    with right, card("Tie-density spectrum", metric="tie_spectrum"):
        if values_E is not None:
            limit = f"Gradient steps are stable below {2 / float(values_E[-1]):.2g}."
            caption = f"Orange: the strong convexity μ. {limit}"
            plot(charts.tie_spectrum(values_E), "tie-spectrum", caption)
    _tables(document, stream, table)


def _pooled(document: tables.Document) -> str:
    steps, seeds = int(document["spec"]["steps"]), int(document["spec"]["seeds"])
    size = -(-steps // charts.MAX_POINTS)
    mean = f"Mean over {seeds} seeds." if seeds > 1 else "One seed."
    return mean if size == 1 else f"{mean} Bins of {size} steps, the largest value of each."


def _tables(document: tables.Document, stream: str, table: pd.DataFrame) -> None:
    with card("Rules", "Steady state is the last 40 % of the steps; ± is a standard error."):
        columns = [*_columns()]
        if not tables.has_jump(document, stream):
            columns.remove("recovery")
        st.dataframe(table[columns], hide_index=True, column_config=_columns(), height="content")
    with card("Statements of the theory", "Tested on 20 sampled steps of the first seed."):
        rule = st.selectbox("Rule", list(table.rule), index=len(table) - 1, width=280)
        st.dataframe(
            tables.verdict_table(document, stream, rule),
            hide_index=True,
            height="content",
            column_config={"Number that decides": st.column_config.TextColumn(width="large")},
        )


def _columns() -> dict[str, Any]:
    config = st.column_config
    return {
        "rule": config.TextColumn("Rule", pinned=True),
        "max_vio": config.NumberColumn("Steady MaxVio", format="%.3f"),
        "max_vio_error": config.NumberColumn("±", format="%.3f", help="standard error over seeds"),
        "ratio": config.NumberColumn("Of the floor", format="%.2f ×"),
        "idle": config.NumberColumn("Idle", format="%.1f %%", help="experts without a token"),
        "to_balance": config.TextColumn(
            "Steps to balance", help=f"until MaxVio is below twice the floor, or {tables.NEVER}"
        ),
        "recovery": config.TextColumn("Steps after the jump", help="steps to balance after it"),
    }


main()
