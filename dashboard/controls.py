"""Buttons for the verbs of a sweep or of one trial, if the settings allow them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import streamlit as st

from evenload.dashboard import queries
from evenload.pipeline.settings import current_settings
from evenload.pipeline.states import Order, SweepRecord, SweepState, TrialRecord, TrialState
from evenload.pipeline.store.deeds import WHO
from evenload.pipeline.store.sweep_store import SweepStore

REMEDY = "Set EVENLOAD_DASHBOARD_CONTROLS=true for the dashboard to allow it."


class Verb(NamedTuple):
    """One button. If it has a `question`, the user must confirm it for a whole sweep."""

    label: str
    icon: str
    explanation: str
    states: tuple[SweepState, ...]  # the states of a sweep to which it applies
    fits: Callable[[TrialRecord], bool]  # whether it would change this trial
    act: Callable[[SweepStore, str, str | None], object]  # on a sweep, or on one of its trials
    question: str = ""


def _may_run(trial: TrialRecord) -> bool:
    return not trial.state.is_final and trial.ordered is None


def _rests(trial: TrialRecord) -> bool:
    if trial.state.is_final:
        return trial.state in (TrialState.STOPPED, TrialState.CANCELLED)
    return trial.ordered is not None


def _trains_on(trial: TrialRecord) -> bool:
    waits = trial.state in (TrialState.QUEUED, TrialState.TRAINING)
    return waits and trial.ordered in (None, Order.PAUSE)


def _is_going(trial: TrialRecord) -> bool:
    return not trial.state.is_final and trial.ordered is not Order.CANCEL


def _has_failed(trial: TrialRecord) -> bool:
    return trial.state is TrialState.FAILED


# By the name of the command `evenload sweep VERB`.
VERBS: dict[str, Verb] = {
    "pause": Verb(
        "Pause",
        ":material/pause:",
        "Starts no more trials; running ones write a checkpoint and wait.",
        (SweepState.ACTIVE,),
        _may_run,
        SweepStore.pause,
    ),
    "resume": Verb(
        "Resume",
        ":material/play_arrow:",
        "Continues from the last checkpoint.",
        (SweepState.PAUSED, SweepState.STOPPING),
        _rests,
        SweepStore.resume,
    ),
    "stop": Verb(
        "Stop",
        ":material/stop:",
        "Ends training; trained trials are still evaluated.",
        (SweepState.ACTIVE, SweepState.PAUSED),
        _trains_on,
        SweepStore.stop,
        "Running trials write a checkpoint and end as stopped; queued ones never start.",
    ),
    "cancel": Verb(
        "Cancel",
        ":material/cancel:",
        "Ends it for good; completed trials keep their figures.",
        (SweepState.ACTIVE, SweepState.PAUSED, SweepState.STOPPING),
        _is_going,
        SweepStore.cancel,
        "A cancelled sweep cannot be resumed.",
    ),
    "retry": Verb(
        "Retry failed",
        ":material/replay:",
        "Queues failed trials again, from their checkpoints.",
        (SweepState.ACTIVE, SweepState.PAUSED, SweepState.STOPPING, SweepState.FINISHED),
        _has_failed,
        SweepStore.retry_failed,
    ),
}


def are_enabled() -> bool:
    """Whether the viewer may start and steer sweeps: the settings allow it, and a login if any."""
    settings = current_settings()
    operators = [name.strip().lower() for name in settings.operators.split(",") if name.strip()]
    is_named = not settings.dashboard_login or not operators or viewer() in operators
    return settings.dashboard_controls and is_named


def viewer() -> str:
    """The verified mail address of the viewer who logged in; empty without one."""
    told = st.user.to_dict()
    return str(told.get("email", "")).lower() if told.get("email_verified") else ""


def require_login() -> None:
    """Ends the page with a button to log in, if the settings ask for a login and there is none."""
    if current_settings().dashboard_login and not st.user.to_dict().get("is_logged_in"):
        st.title("evenload", anchor=False)
        st.button("Log in", icon=":material/login:", on_click=st.login)
        st.stop()
    WHO.set(viewer() or "dashboard")


def applicable(sweep: SweepRecord, failed: int) -> list[str]:
    """The names of the verbs that would change something now.  Args: failed: trials"""
    return [
        name
        for name, verb in VERBS.items()
        if sweep.state in verb.states and (name != "retry" or failed)
    ]


def verb_buttons(sweep: SweepRecord, failed: int) -> None:
    """A row of buttons; empty if the settings do not allow them."""
    _row(applicable(sweep, failed), sweep.sweep_id)


def trial_buttons(sweep_id: str, trial: TrialRecord) -> None:
    """A row of buttons for one trial of a sweep."""
    _row([name for name, verb in VERBS.items() if verb.fits(trial)], sweep_id, trial.digest)


def _row(names: Sequence[str], sweep_id: str, digest: str | None = None) -> None:
    if not are_enabled() or not names:
        return
    with st.container(horizontal=True, gap="small"):
        for name in names:
            _button(name, VERBS[name], sweep_id, digest)


def _button(name: str, verb: Verb, sweep_id: str, digest: str | None) -> None:
    key = f"{name}-{digest or sweep_id}"
    if digest or not verb.question:
        if st.button(verb.label, icon=verb.icon, help=verb.explanation, key=key):
            _act(verb, sweep_id, digest)
        return
    with st.popover(verb.label, icon=verb.icon, help=verb.explanation, key=f"ask-{key}"):
        st.markdown(f"{verb.label} **{sweep_id}**? {verb.question}")
        if st.button(f"Yes, {verb.label.lower()}", icon=verb.icon, type="primary", key=key):
            _act(verb, sweep_id, digest)


def _act(verb: Verb, sweep_id: str, digest: str | None) -> None:
    verb.act(queries.store(), sweep_id, digest)
    queries.forget()
    st.toast(f"{verb.label}: {digest or sweep_id}", icon=verb.icon)
    st.rerun()
