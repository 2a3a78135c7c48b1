"""The records of a run: figures, specification, attempts and logs."""

import pandas as pd
import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.page_parts import card
from evenload.dashboard.record_tables import attempt_table, figure_table
from evenload.dashboard.run import queries as run_queries
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.records.recorded_runs import RecordedRun, facts
from evenload.pipeline.spec.yaml_text import yaml_of
from evenload.pipeline.states import TrialRecord

FOLD_HEIGHT = 420  # height of long texts and tables, in pixels


def draw_recorded(run: RecordedRun, series: LoadSeries) -> None:
    with card("What is known", "Others trained this run; evenload recorded its loads."):
        st.dataframe(
            pd.DataFrame(facts(run), columns=["", "Value"]),
            hide_index=True,
            placeholder="–",
            height="content",
        )


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    left, right = st.columns(2)
    with left, card("Final figures", "The steady state is the last quarter of the steps."):
        st.dataframe(figure_table(trial), hide_index=True, placeholder="–", height=FOLD_HEIGHT)
    with right, card("Specification", "With all defaults, and every `auto` resolved."):
        st.code(yaml_of(trial.spec), language="yaml", height=FOLD_HEIGHT)
    with card("Attempts", "Training and evaluation are separate attempts."):
        st.dataframe(
            attempt_table(queries.attempts(trial.digest)), hide_index=True, placeholder="–"
        )
    with card("Logs", "One file per attempt with logs, output and warnings."):
        _logs(trial)


def _logs(trial: TrialRecord) -> None:
    names = run_queries.log_names(trial.digest)
    if not names:
        st.caption("There are no log files here. A worker on another host keeps its own.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox("File", names, key="log", bind="query-params", width=280)
        text = run_queries.log_tail(trial.digest, str(name))
        st.download_button(
            "Save",
            text,
            file_name=f"{trial.digest}-{name}",
            mime="text/plain",
            icon=":material/download:",
            on_click="ignore",
        )
    st.caption(f"The last {len(text.splitlines())} lines.")
    st.code(text or " ", language=None, height=FOLD_HEIGHT)
