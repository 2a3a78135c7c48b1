"""What the pages read: sweeps and trials from the store, loads from the shards. Cached, read-only.

MLflow is not asked: the store and the shards hold every number, so the pages work without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from pydantic import ValidationError

from dashboard.frames import spec_of
from pipeline.load_metrics import utilisation
from pipeline.records import AttemptRecord, CurvePoint, SweepRecord, TrialRecord
from pipeline.settings import Settings
from pipeline.store.sweep_store import SweepStore
from pipeline.sweep.recommend import Recommendation, recommend
from pipeline.sweep_spec import SweepSpec
from pipeline.tracking.load_log import read_eval_counts, read_history
from pipeline.tracking.load_series import LoadSeries, catch_up, percent_of_fair, read_series
from pipeline.tracking.mirror import readable_dir

FRESH_SECONDS = 2.0  # several viewers of a live page share one read
LOG_TAIL_BYTES, LOG_TAIL_LINES = 32_000, 40


class Window(NamedTuple):
    """Loads of some neighbouring steps of a run, summed before any ratio is formed."""

    first: int
    last: int
    percent_LE: NDArray[np.int16]  # of the fair share; no rows where no step is recorded


def sweeps() -> list[tuple[SweepRecord, list[TrialRecord]]]:
    """Every sweep with its trials.  Raises: SpecError: no store, or one of another version"""
    return _sweeps(Settings().store_url)


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
    for reader in (_sweeps, _sweep, _trial, _answer):
        reader.clear()


def trial(digest: str) -> TrialRecord:
    """Raises: SpecError: no store, unknown trial"""
    return _trial(Settings().store_url, digest)


def attempts(digest: str) -> list[AttemptRecord]:
    """First to newest."""
    return _attempts(Settings().store_url, digest)


def load_series(trial: TrialRecord) -> LoadSeries:
    """The run's history so far, reduced for the screen. Reads only what is new since last time."""
    folder = readable_dir(Settings(), trial.digest)
    series, lock = _load_series(folder, trial)
    with lock:
        catch_up(series, folder)
    return series


def load_window(trial: TrialRecord, last: int, steps: int) -> Window:
    """The `steps` steps up to and including `last`."""
    return _load_window(readable_dir(Settings(), trial.digest), trial, last, steps)


def eval_percent(trial: TrialRecord) -> NDArray[np.int16] | None:
    """Load over the whole evaluation set, percent of the fair share; None before it."""
    count_LE = read_eval_counts(readable_dir(Settings(), trial.digest))
    if count_LE is None:
        return None
    return percent_of_fair(utilisation(count_LE, spec_of(trial).balancer.target))


def log_tail(digest: str) -> tuple[str, str] | None:
    """Name and last lines of the newest log file of a trial; None where it has none."""
    files = _newest_first(readable_dir(Settings(), digest).rglob("*.log"))
    if not files:
        return None
    with files[0].open("rb") as file:
        file.seek(max(0, files[0].stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
        return files[0].name, "\n".join(lines[-LOG_TAIL_LINES:])


def mlflow_run_url(trial: TrialRecord) -> str | None:
    """None for a trial without a run."""
    return f"{Settings().mlflow_ui_url}/#/runs/{trial.run_id}" if trial.run_id else None


@st.cache_resource(max_entries=4)
def _store(url: str) -> SweepStore:
    return SweepStore(url)


@st.cache_data(ttl=FRESH_SECONDS, max_entries=4, show_spinner=False)
def _sweeps(url: str) -> list[tuple[SweepRecord, list[TrialRecord]]]:
    store = _store(url)
    return [(sweep, store.trials(sweep.sweep_id)) for sweep in store.sweeps()]


@st.cache_data(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _sweep(url: str, sweep_id: str) -> tuple[SweepRecord, list[TrialRecord]]:
    store = _store(url)
    return store.sweep(sweep_id), store.trials(sweep_id)


@st.cache_data(ttl=FRESH_SECONDS, max_entries=16, show_spinner=False)
def _curves(url: str, sweep_id: str) -> dict[str, list[CurvePoint]]:
    return _store(url).curves(sweep_id)


@st.cache_data(ttl=FRESH_SECONDS, max_entries=16, show_spinner=False)
def _answer(url: str, sweep_id: str) -> Recommendation:
    sweep, trials = _sweep(url, sweep_id)
    return recommend(trials, _sweep_spec(sweep_id, sweep.spec), _curves(url, sweep_id))


@st.cache_resource(max_entries=64, show_spinner=False)
def _sweep_spec(sweep_id: str, _spec: dict[str, Any]) -> SweepSpec | None:
    try:
        return SweepSpec.model_validate(_spec)
    except ValidationError:
        return None


@st.cache_data(ttl=FRESH_SECONDS, max_entries=256, show_spinner=False)
def _trial(url: str, digest: str) -> TrialRecord:
    return _store(url).trial(digest)


@st.cache_data(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _attempts(url: str, digest: str) -> list[AttemptRecord]:
    return _store(url).attempts(digest)


@st.cache_resource(ttl=3600, max_entries=16, show_spinner=False)
def _load_series(folder: Path, _trial: TrialRecord) -> tuple[LoadSeries, Lock]:
    return read_series(folder, spec_of(_trial)), Lock()


@st.cache_data(ttl=FRESH_SECONDS, max_entries=256, show_spinner=False)
def _load_window(folder: Path, _trial: TrialRecord, last: int, steps: int) -> Window:
    history = read_history(folder, first=max(1, last - steps + 1), last=last, columns=["load"])
    if not len(history.step_S):
        return Window(last, last, np.zeros((0, 0), np.int16))
    util_LE = utilisation(
        history.count_SLE.sum(axis=0, dtype=np.int64), spec_of(_trial).balancer.target
    )
    return Window(int(history.step_S[0]), int(history.step_S[-1]), percent_of_fair(util_LE))


def _newest_first(files: Iterable[Path]) -> list[Path]:
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
