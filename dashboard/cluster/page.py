"""The cluster: the health of its parts, coordinators and workers, running and waiting trials."""

from typing import Any

import pandas as pd
import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.cluster import queries as cluster_queries
from evenload.dashboard.cluster import tables
from evenload.dashboard.cluster.health import Check, Level
from evenload.dashboard.page_parts import card, clicked_row, live, metrics, table_height
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.wording import Colour
from evenload.pipeline.escaping import for_markdown

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
        st.info("This page needs the store for everything else.")
        return
    here, sweeps = cluster_queries.cluster(), queries.overviews()
    now = here.snapshot.taken_at
    found = tables.totals(here.present, sweeps, now)
    metrics(
        ("Nodes", f"{found.nodes}", "alive in the Ray clusters of the coordinators"),
        ("Training slots", f"{found.free} of {found.slots} free", "trials trained at once"),
        ("Wait for training", f"{found.waiting_train}", "queued trials of active sweeps"),
        ("Wait for evaluation", f"{found.waiting_eval}", "trained trials of active sweeps"),
    )
    with card(
        "Queue",
        "Submitters take turns; the sweeps of each come by priority, then by age.",
    ):
        _table(tables.queue_table(sweeps), "Nothing waits.")
    with card("Running trials", "A worker renews the lease on its trial with every heartbeat."):
        _runs(tables.lease_table(here.held, now), "leases", "No trial is running.")
    with card("Coordinators and workers", "Those that announced themselves within a day."):
        _runs(tables.actor_table(here.present, now), "actors", "There are none.")
    with card("Nodes", "The nodes of the Ray cluster at the coordinator's last announcement."):
        nothing = "No running coordinator has reported its nodes."
        _table(tables.node_table(here.present, now), nothing)
        url = run_queries.ray_dashboard_url()
        if url:
            st.page_link(url, label="Ray dashboard", icon=":material/open_in_new:")
    with card("What was asked", "The newest 100 verbs: who used them on which sweep or trial."):
        _table(tables.deed_table(cluster_queries.deeds()), "Nothing yet.")


def _health(checks: list[Check]) -> None:
    for column, check in zip(st.columns(len(checks)), checks, strict=True):
        icon, colour = LOOKS[check.level]
        with column.container(border=True, height="stretch"):
            st.markdown(f"**{check.part}**")
            st.badge(check.level, icon=icon, color=colour)
            st.caption(for_markdown(check.detail))
            if check.remedy:
                st.markdown(f":small[:material/build: {for_markdown(check.remedy)}]")


def _runs(table: pd.DataFrame, key: str, nothing: str) -> None:
    """A table whose rows open runs."""
    if table.empty:
        st.caption(nothing)
        return
    height = table_height(table, MAX_TALL_ROWS)
    row = clicked_row(table.drop(columns="digest"), key, _columns(), height=height)
    if row is not None and table.digest[row]:
        st.switch_page("run/page.py", query_params={"run": table.digest[row]})


def _table(table: pd.DataFrame, nothing: str) -> None:
    if table.empty:
        st.caption(nothing)
        return
    height = table_height(table, MAX_TALL_ROWS)
    st.dataframe(table, hide_index=True, placeholder="–", column_config=_columns(), height=height)


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
