"""The verbs of a sweep as buttons, where the settings allow them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import streamlit as st

from dashboard import queries
from pipeline.records import SweepRecord, SweepState, TrialRecord, TrialState
from pipeline.settings import Settings
from pipeline.store.sweep_store import SweepStore

REMEDY = "Set EVENLOAD_DASHBOARD_CONTROLS=true for the dashboard to allow it."


class Verb(NamedTuple):
    """One button. `question` is asked first where what it does cannot be taken back."""

    label: str
    icon: str
    explanation: str
    states: tuple[SweepState, ...]  # in which it makes sense
    act: Callable[[SweepStore, str], object]
    question: str = ""


# A verb is a line: as `evenload sweep VERB` names it.
VERBS: dict[str, Verb] = {
    "pause": Verb(
        "Pause",
        ":material/pause:",
        "Starts nothing new; running trials write a checkpoint and wait.",
        (SweepState.ACTIVE,),
        SweepStore.pause,
    ),
    "resume": Verb(
        "Resume",
        ":material/play_arrow:",
        "Goes on from the checkpoints.",
        (SweepState.PAUSED, SweepState.STOPPING),
        SweepStore.resume,
    ),
    "stop": Verb(
        "Stop",
        ":material/stop:",
        "Trains no further; what is trained is still evaluated.",
        (SweepState.ACTIVE, SweepState.PAUSED),
        SweepStore.stop,
        "Running trials write a checkpoint and end as stopped; queued ones never start.",
    ),
    "cancel": Verb(
        "Cancel",
        ":material/cancel:",
        "Ends the sweep for good; finished trials keep their figures.",
        (SweepState.ACTIVE, SweepState.PAUSED, SweepState.STOPPING),
        SweepStore.cancel,
        "A cancelled sweep cannot be resumed.",
    ),
    "retry": Verb(
        "Retry failed",
        ":material/replay:",
        "Queues the failed trials again, from their checkpoints.",
        (SweepState.ACTIVE, SweepState.PAUSED, SweepState.STOPPING, SweepState.FINISHED),
        SweepStore.retry_failed,
    ),
}


def are_enabled() -> bool:
    return Settings().dashboard_controls


def applicable(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> list[str]:
    """The verbs that would change something now."""
    has_failed = any(trial.state is TrialState.FAILED for trial in trials)
    return [
        name
        for name, verb in VERBS.items()
        if sweep.state in verb.states and (name != "retry" or has_failed)
    ]


def verb_buttons(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """A row of buttons; nothing where the settings do not allow it."""
    names = applicable(sweep, trials)
    if not are_enabled() or not names:
        return
    with st.container(horizontal=True, gap="small"):
        for name in names:
            _button(name, VERBS[name], sweep.sweep_id)


def _button(name: str, verb: Verb, sweep_id: str) -> None:
    key = f"{name}-{sweep_id}"
    if not verb.question:
        if st.button(verb.label, icon=verb.icon, help=verb.explanation, key=key):
            _act(verb, sweep_id)
        return
    with st.popover(verb.label, icon=verb.icon, help=verb.explanation, key=f"ask-{key}"):
        st.markdown(f"{verb.label} **{sweep_id}**? {verb.question}")
        if st.button(f"Yes, {verb.label.lower()}", icon=verb.icon, type="primary", key=key):
            _act(verb, sweep_id)


def _act(verb: Verb, sweep_id: str) -> None:
    verb.act(queries.store(), sweep_id)
    queries.forget()
    st.toast(f"{verb.label}: {sweep_id}", icon=verb.icon)
    st.rerun()
