"""All sweeps: how far they are, what failed, when they ran."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import queries
from dashboard.frame import live, metrics
from dashboard.frames import sweep_table
from dashboard.wording import SWEEP_STATES, ago, duration
from pipeline.records import SweepState


def main() -> None:
    st.title("Sweeps", anchor=False)
    live(_body, _is_over)


def _is_over() -> bool:
    return not any(sweep.state is SweepState.ACTIVE for sweep, _ in queries.sweeps())


def _body() -> None:
    table = sweep_table(queries.sweeps())
    if table.empty:
        st.info(
            "No sweeps yet. `evenload quickstart` runs a small one on this machine; "
            "`evenload sweep run SWEEP.yaml` runs yours.",
            icon=":material/rocket_launch:",
        )
        return
    metrics(
        ("Active sweeps", f"{(table.state == SweepState.ACTIVE).sum()}", ""),
        ("Trials running", f"{table.running.sum()}", "training or evaluating now"),
        ("Trials completed", f"{table.completed.sum()} of {table.trials.sum()}", ""),
        ("Trials failed", f"{table.failed.sum()}", "open the sweep to see why"),
    )
    picked = st.dataframe(
        _shown(table),
        hide_index=True,
        key="sweeps",
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_columns(),
        row_height=42,
    )
    st.caption("Click a sweep to open it. Columns sort by a click on their head.")
    if picked.selection.cells:
        row = picked.selection.cells[0][0]
        st.switch_page("app_pages/sweep.py", query_params={"sweep": table.sweep_id[row]})


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Sweep": table.sweep_id,
            "State": [[SWEEP_STATES[SweepState(state)].text] for state in table.state],
            "Progress": table.progress,
            "Completed": [
                f"{done} of {trials}" if trials else "not listed yet"
                for done, trials in zip(table.completed, table.trials, strict=True)
            ],
            "Running": table.running,
            "Failed": table.failed,
            "Submitted": [ago(when) for when in table.created_at],
            "Ran for": [duration(seconds) for seconds in table.seconds],
            "Time left": [duration(seconds) for seconds in table.eta_seconds],
        }
    )


def _columns() -> dict[str, Any]:
    config = st.column_config
    states = SWEEP_STATES.values()
    return {
        "Sweep": config.TextColumn(width="large"),
        "State": config.MultiselectColumn(
            options=[state.text for state in states], color=[state.colour for state in states]
        ),
        "Progress": config.ProgressColumn(
            format="%.0f %%", min_value=0, max_value=100, help="share of all steps that are done"
        ),
        "Time left": config.TextColumn(help="at the pace so far"),
    }


main()
