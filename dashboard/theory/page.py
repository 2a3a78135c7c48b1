"""Simulations of rules on streams of scores, compared with the theory of the dual problem."""

from functools import partial
from typing import Any

import streamlit as st

from evenload.dashboard.page_parts import card, chosen, live, metrics, plot
from evenload.dashboard.theory import queries as simulation_queries
from evenload.dashboard.theory import tables
from evenload.pipeline.charts import simulation as charts
from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.wording import number

COMMAND = "evenload simulate SIMULATION.yaml --check theory --out .evenload/simulations/NAME"


def main() -> None:
    st.title("Theory", anchor=False)
    st.caption(
        "Balancing rules on streams of router scores, without a model: how evenly they balance, "
        "their regret against the best fixed bias, and whether the theory of the dual holds."
    )
    known = simulation_queries.simulations()
    if known:
        name = chosen("Simulation", known, "simulation", _named)
        live(partial(_body, name), lambda: True)
    else:
        st.info("No simulation yet.", icon=":material/science:")
    st.caption("This command adds one; `.evenload` stands for the folder of this dashboard.")
    st.code(COMMAND, language="bash")


def _named(name: str) -> str:
    try:
        spec = simulation_queries.simulation_result(name)["spec"]
    except SpecError:
        return f"{name}: unreadable"
    size = f"{spec['num_experts']} experts, top-{spec['top_k']}, {spec['steps']:,} steps"
    return f"{name}: {len(spec['rules'])} rules, {size}"


def _body(name: str) -> None:
    document = simulation_queries.simulation_result(name)
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
    left, right = st.columns(2)
    with left, card("MaxVio", metric="max_vio"):
        vio_N = simulation_queries.simulated_max_vio(name)
        ordered = {rule: vio_N[stream, rule] for rule in table.rule}
        plot(charts.simulated_max_vio(ordered, floor), "simulated-max-vio", _pooled(document))
    with card("Rules", "Steady state is the last 40 % of the steps; ± is a standard error."):
        columns = [*_columns()]
        if not tables.has_jump(document, stream):
            columns.remove("recovery")
        st.dataframe(
            table[columns],
            hide_index=True,
            placeholder="–",
            column_config=_columns(),
            height="content",
        )
    curves = tables.regret_curves(document, stream)
    if not curves:
        st.info("The theory was not tested here; the option `--check theory` tests it.")
        return
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
    _statements(document, stream, list(table.rule))


def _pooled(document: tables.Document) -> str:
    steps, seeds = int(document["spec"]["steps"]), int(document["spec"]["seeds"])
    size = -(-steps // charts.MAX_POINTS)
    mean = f"Mean over {seeds} seeds." if seeds > 1 else "One seed."
    return mean if size == 1 else f"{mean} Bins of {size} steps, the largest value of each."


def _statements(document: tables.Document, stream: str, rules: list[str]) -> None:
    with card("Statements of the theory", "Tested on 20 sampled steps of the first seed."):
        rule = st.selectbox("Rule", rules, index=len(rules) - 1, width=280)
        st.dataframe(
            tables.verdict_table(document, stream, rule),
            hide_index=True,
            placeholder="–",
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
