"""The cluster: whether each part works, who is there, what runs and what waits."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.cluster import queries as cluster_queries
from evenload.dashboard.cluster.health import Check, Level
from evenload.dashboard.cluster.tables import (
    actor_table,
    lease_table,
    node_table,
    queue_table,
    totals,
)
from evenload.dashboard.page_parts import card, live, metrics
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.wording import Colour

LOOKS: dict[Level, tuple[str, Colour]] = {
    Level.OK: (":material/check_circle:", "green"),
    Level.WARNING: (":material/warning:", "orange"),
    Level.DOWN: (":material/error:", "red"),
}
MAX_TALL_ROWS = 20  # longer tables scroll


def main() -> None:
    st.title("Cluster", anchor=False)
    live(_body, lambda: False)


def _body() -> None:
    checks = cluster_queries.checks()
    _health(checks)
    if any(check.part == "SQL store" and check.level is Level.DOWN for check in checks):
        st.info("Without the store nothing else is known here.")
        return
    here, sweeps = cluster_queries.cluster(), queries.sweeps()
    now = here.snapshot.taken_at
    found = totals(here.present, sweeps, now)
    metrics(
        ("Nodes", f"{found.nodes}", "alive, as the coordinators' Ray sees them"),
        ("Training slots", f"{found.free} of {found.slots} free", "trials trained at once"),
        ("Wait for training", f"{found.waiting_train}", "queued trials of sweeps that go on"),
        ("Wait for evaluation", f"{found.waiting_eval}", "trained, their checkpoint waits"),
    )
    _queue(queue_table(sweeps))
    trials = {trial.digest: trial for _, listed in sweeps for trial in listed}
    with card("Running trials", "Who holds a trial renews its lease with every heartbeat."):
        _runs(lease_table(trials.values(), now), "leases", "No trial is running.")
    with card("Coordinators and workers", "Who said within a day that they are there."):
        _runs(actor_table(here.present, now), "actors", "Nobody is here.")
    with card("Nodes", "Of the Ray cluster, as its coordinator saw it last."):
        _table(node_table(here.present, now), "No coordinator has told its nodes lately.")
        url = run_queries.ray_dashboard_url()
        if url:
            st.page_link(url, label="Ray dashboard", icon=":material/open_in_new:")


def _health(checks: list[Check]) -> None:
    for column, check in zip(st.columns(len(checks)), checks, strict=True):
        icon, colour = LOOKS[check.level]
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{check.part}**")
            st.badge(check.level, icon=icon, color=colour)
            st.caption(check.detail)
            if check.remedy:
                st.markdown(f":small[:material/build: {check.remedy}]")


def _queue(table: pd.DataFrame) -> None:
    with card("Queue", "Higher priority first, then older; trials start in their sweep's order."):
        _table(table, "Nothing waits.")


def _runs(table: pd.DataFrame, key: str, nothing: str) -> None:
    """A table whose rows lead to runs."""
    if table.empty:
        st.caption(nothing)
        return
    picked = st.dataframe(
        table.drop(columns="digest"),
        hide_index=True,
        key=key,
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_columns(),
        placeholder="–",
        height="content" if len(table) <= MAX_TALL_ROWS else 36 * MAX_TALL_ROWS,
    )
    if picked.selection.cells and table.digest[picked.selection.cells[0][0]]:
        digest = table.digest[picked.selection.cells[0][0]]
        st.switch_page("run/page.py", query_params={"run": digest})


def _table(table: pd.DataFrame, nothing: str) -> None:
    if table.empty:
        st.caption(nothing)
        return
    height: Any = "content" if len(table) <= MAX_TALL_ROWS else 36 * MAX_TALL_ROWS
    st.dataframe(table, hide_index=True, column_config=_columns(), height=height)


def _columns() -> dict[str, Any]:
    config = st.column_config
    return {
        "Memory": config.NumberColumn(format="%.1f GiB"),
        "Tokens/s": config.NumberColumn(format="localized", step=1),
        "Cores": config.NumberColumn(format="%.0f"),
        "GPUs": config.NumberColumn(format="%.0f"),
        "Attempt": config.NumberColumn(format="%.0f"),
    }


main()
