"""What the pages read of sweeps and trials: the store's records. Cached, read-only.

They are kept as they are and not copied for every reader, which for 500 trials takes longer than
reading them: nobody changes what comes from here.
"""

from __future__ import annotations

from typing import Any

import streamlit as st
from pydantic import ValidationError

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import AttemptRecord, CurvePoint, SweepRecord, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.recommend import Recommendation, recommend

FRESH_SECONDS = 2.0  # several viewers of a live page share one read


def sweeps() -> list[tuple[SweepRecord, list[TrialRecord]]]:
    """Every sweep with its trials.  Raises: SpecError: no store, or one of another version"""
    return _sweeps(Settings().store_url)


def sweep_ids() -> list[str]:
    """Newest first, without their trials.  Raises: SpecError: as `sweeps`"""
    return _sweep_ids(Settings().store_url)


def sweep(sweep_id: str) -> tuple[SweepRecord, list[TrialRecord]]:
    """Raises: SpecError: no store, unknown sweep"""
    return _sweep(Settings().store_url, sweep_id)


def curves(sweep_id: str) -> dict[str, list[CurvePoint]]:
    """Digest -> held-out losses while it trained, of the trials that have some."""
    return _curves(Settings().store_url, sweep_id)


def answer(sweep_id: str) -> Recommendation:
    """The recommendation with its evidence."""
    return _answer(Settings().store_url, sweep_id)


def sweep_spec(sweep_id: str, spec: dict[str, Any]) -> SweepSpec | None:
    """What was asked for; None where an older or newer evenload asked it."""
    return _sweep_spec(sweep_id, spec)


def store() -> SweepStore:
    """For the verbs. Whoever writes calls `forget` then."""
    return _store(Settings().store_url)


def forget() -> None:
    """The next read of sweeps and trials asks the store."""
    for reader in (_sweeps, _sweep_ids, _sweep, _trial, _answer):
        reader.clear()


def trial(digest: str) -> TrialRecord:
    """Raises: SpecError: no store, unknown trial"""
    return _trial(Settings().store_url, digest)


def attempts(digest: str) -> list[AttemptRecord]:
    """First to newest."""
    return _attempts(Settings().store_url, digest)


@st.cache_resource(max_entries=4)
def _store(url: str) -> SweepStore:
    return SweepStore(url)


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=4, show_spinner=False)
def _sweeps(url: str) -> list[tuple[SweepRecord, list[TrialRecord]]]:
    store = _store(url)
    return [(sweep, store.trials(sweep.sweep_id)) for sweep in store.sweeps()]


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
def _answer(url: str, sweep_id: str) -> Recommendation:
    sweep, trials = _sweep(url, sweep_id)
    return recommend(trials, _sweep_spec(sweep_id, sweep.spec), _curves(url, sweep_id))


@st.cache_resource(max_entries=64, show_spinner=False)
def _sweep_spec(sweep_id: str, _spec: dict[str, Any]) -> SweepSpec | None:
    try:
        return SweepSpec.model_validate(_spec)
    except ValidationError:
        return None


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=256, show_spinner=False)
def _trial(url: str, digest: str) -> TrialRecord:
    return _store(url).trial(digest)


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _attempts(url: str, digest: str) -> list[AttemptRecord]:
    return _store(url).attempts(digest)
