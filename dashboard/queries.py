"""Reads sweeps and trials from the store for all pages. Cached.

Records are not copied for every reader, because copying 500 trials takes longer than reading them.
So pages must not change them.
"""

import streamlit as st

from evenload.dashboard.loss_unit import loss_unit
from evenload.pipeline.figures.loss_unit import LossUnit
from evenload.pipeline.settings import current_settings
from evenload.pipeline.states import (
    AttemptRecord,
    CurvePoint,
    SweepOverview,
    SweepRecord,
    TrialRecord,
)
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import Answer, answer_of, readable_spec
from evenload.pipeline.sweep.audit import Finding, audit, audit_trials, read_facts
from evenload.pipeline.sweep.step_curves import advised_ranges

FRESH_SECONDS = 2.0  # several viewers of a live page share one read
OVERVIEW_SECONDS = 5.0  # to count 110,000 trials takes a quarter of a second


def overviews() -> list[SweepOverview]:
    """All sweeps, newest first.  Raises: SpecError: no store, or one of another version"""
    return _overviews(_url())


def sweep_ids() -> list[str]:
    """The ids of all sweeps, newest first.  Raises: SpecError: as `overviews`"""
    return _sweep_ids(_url())


def sweep(sweep_id: str) -> tuple[SweepRecord, list[TrialRecord]]:
    """A sweep with its trials.  Raises: SpecError: no store, unknown sweep"""
    return _sweep(_url(), sweep_id)


def sweeps_of(*digests: str) -> list[str]:
    """The ids of the sweeps that list one of these trials, newest first."""
    return _sweeps_of(_url(), digests)


def is_over(sweep_id: str) -> bool:
    return not sweep(sweep_id)[0].state.is_going


def curves(sweep_id: str) -> dict[str, list[CurvePoint]]:
    """The learning curves of a sweep's trials by digest; trials without one are left out."""
    return _curves(_url(), sweep_id)


def answer(sweep_id: str) -> Answer:
    """The answer with its evidence, with losses in the unit that the viewer chose."""
    return _answer(_url(), sweep_id).in_unit(loss_unit(sweep(sweep_id)[1]))


def findings(sweep_id: str, *digests: str) -> list[Finding]:
    """What the audit found, read again whenever a trial has ended.

    Args:     digests: what it found about these trials alone; none: about the sweep
    """
    ended = sum(trial.state.is_final for trial in sweep(sweep_id)[1])
    return _findings(_url(), sweep_id, digests, ended, loss_unit(sweep(sweep_id)[1]))


def advised_steps(sweep_id: str) -> dict[str, tuple[float, float]]:
    """Place -> step sizes of `sign` that theory advises, read again whenever a trial has ended."""
    ended = sum(trial.state.is_final for trial in sweep(sweep_id)[1])
    return _advised_steps(current_settings().store_url, sweep_id, ended)


def store() -> SweepStore:
    """The store, for verbs. Call `forget` after writing to it."""
    return _store(_url())


def forget() -> None:
    """Clears the cache, so that the next read of sweeps and trials queries the store."""
    for reader in (_overviews, _sweep_ids, _sweep, _trial, _answer):
        reader.clear()


def trial(digest: str) -> TrialRecord:
    """One trial.  Raises: SpecError: no store, unknown trial"""
    return _trial(_url(), digest)


def attempts(digest: str) -> list[AttemptRecord]:
    """All attempts at a trial, oldest first."""
    return _attempts(_url(), digest)


def _url() -> str:
    return current_settings().shown_store_url


def _store(url: str) -> SweepStore:
    return _opened(url, read_only=not current_settings().dashboard_controls)


@st.cache_resource(max_entries=4)
def _opened(url: str, read_only: bool) -> SweepStore:
    return SweepStore(url, read_only)


@st.cache_resource(ttl=OVERVIEW_SECONDS, max_entries=4, show_spinner=False)
def _overviews(url: str) -> list[SweepOverview]:
    return _store(url).overviews()


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=256, show_spinner=False)
def _sweeps_of(url: str, digests: tuple[str, ...]) -> list[str]:
    return _store(url).sweeps_of(digests)


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=4, show_spinner=False)
def _sweep_ids(url: str) -> list[str]:
    return [sweep.sweep_id for sweep in _store(url).sweeps()]


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _sweep(url: str, sweep_id: str) -> tuple[SweepRecord, list[TrialRecord]]:
    store = _store(url)
    return store.sweep(sweep_id), store.trials(sweep_id)


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=16, show_spinner=False)
def _curves(url: str, sweep_id: str) -> dict[str, list[CurvePoint]]:
    return _store(url).curves(sweep_id)


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=16, show_spinner=False)
def _answer(url: str, sweep_id: str) -> Answer:
    trials, spec = _sweep(url, sweep_id)[1], readable_spec(_store(url), sweep_id)
    return answer_of(trials, spec, _curves(url, sweep_id), sweep_id)


@st.cache_resource(max_entries=16, show_spinner=False)
def _findings(
    url: str, sweep_id: str, digests: tuple[str, ...], ended: int, unit: LossUnit
) -> list[Finding]:
    """`ended` is part of the key of the cache only."""
    trials = _sweep(url, sweep_id)[1]
    chosen = [trial for trial in trials if trial.digest in digests]
    facts = read_facts(current_settings(), _answer(url, sweep_id).in_unit(unit), chosen or trials)
    return audit_trials(facts) if chosen else audit(facts)


@st.cache_resource(max_entries=16, show_spinner=False)
def _advised_steps(url: str, sweep_id: str, ended: int) -> dict[str, tuple[float, float]]:
    """`ended` is part of the key of the cache only."""
    return advised_ranges(current_settings(), _answer(url, sweep_id), _sweep(url, sweep_id)[1])


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=256, show_spinner=False)
def _trial(url: str, digest: str) -> TrialRecord:
    return _store(url).trial(digest)


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _attempts(url: str, digest: str) -> list[AttemptRecord]:
    return _store(url).attempts(digest)
