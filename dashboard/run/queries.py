"""Reads the data of one run: loads, evaluation, samples and logs. Cached.

All numbers come from shards. MLflow is only queried for its health.
"""

import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard.shown_runs import Run, folder_of, is_over, outline_of, version_of
from evenload.pipeline.addresses import shown_address
from evenload.pipeline.figures.cost import Recorded, waits
from evenload.pipeline.figures.evaluation import Detail
from evenload.pipeline.figures.loads import utilisation
from evenload.pipeline.records import evaluation_arrays
from evenload.pipeline.records.load_series import LoadSeries, catch_up, percent_of_fair, read_series
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.parquet_files import DamagedFile
from evenload.pipeline.records.shards import Part, read_eval_counts, read_history
from evenload.pipeline.records.shards import torn_files as torn
from evenload.pipeline.records.system_sink import read_samples
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import current_settings
from evenload.pipeline.states import TrialRecord

Array = TypeVar("Array")
FRESH_SECONDS = 2.0  # several viewers of a live page share one read
PROBE_SECONDS, PROBE_TIMEOUT_SECONDS = 30.0, 0.5
LOG_TAIL_BYTES, LOG_TAIL_LINES = 64_000, 200


class Window(NamedTuple):
    """The loads of some neighbouring steps of a run, summed before ratios are formed."""

    first: int
    last: int
    percent_LE: NDArray[np.int16]  # percent of the fair share; empty if no step is recorded


class Recent(NamedTuple):
    """The loads of the newest steps of a run."""

    first: int
    last: int
    count_LE: NDArray[np.int64]  # summed over the steps; empty if none is recorded
    waits: Recorded  # what ranks lose by waiting


class _Followed:
    """The series of a run, and the version with which it became complete."""

    def __init__(self, series: LoadSeries) -> None:
        self.series = series
        self.lock = Lock()
        self.complete_version: int | None = None


def load_series(run: Run) -> LoadSeries:
    """The pooled history of the run so far. Only new shards are read."""
    folder, version = folder_of(run), version_of(run)
    followed = _followed(folder, getattr(run, "writer", ""), run)
    with followed.lock:
        if followed.complete_version != version:
            catch_up(followed.series, folder)
            followed.complete_version = version if is_over(run) else None
    return followed.series


def load_window(run: Run, last: int, steps: int) -> Window:
    """The loads of `steps` steps, up to and including step `last`."""
    return _load_window(folder_of(run), run, last, steps)


def recent(run: Run, last: int, steps: int) -> Recent:
    """The loads of `steps` steps, up to and including step `last`, and what they cost."""
    return _recent(folder_of(run), run, last, steps)


def eval_percent(run: Run) -> NDArray[np.int16] | None:
    """Loads of the evaluation in percent of the fair share; None before the evaluation."""
    return _eval_percent(folder_of(run), run, version_of(run))


def torn_files(run: Run) -> list[Part]:
    """The files of the run's steps that cannot be read; those of a running attempt may grow."""
    return _torn_files(folder_of(run), version_of(run)) if is_over(run) else []


def eval_detail(trial: TrialRecord) -> tuple[Detail, list[str]]:
    """The optional parts of the newest evaluation, and what is wrong with files of it."""
    return _eval_detail(readable_dir(current_settings(), trial.digest), trial.attempt)


def system_samples(trial: TrialRecord) -> dict[str, NDArray[Any]]:
    """The use of the run's machine, as columns, which are empty if there are no samples."""
    return _system_samples(readable_dir(current_settings(), trial.digest), trial.attempt)


def log_names(digest: str) -> list[str]:
    """The log files of a trial, one per attempt, newest first."""
    files = readable_dir(current_settings(), digest).rglob("*.log")
    return [path.name for path in sorted(files, key=lambda file: file.stat().st_mtime)[::-1]]


def log_tail(digest: str, name: str) -> str:
    """The last lines of a log file."""
    path = next(readable_dir(current_settings(), digest).rglob(Path(name).name))
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])


def mlflow_run_url(trial: TrialRecord) -> str | None:
    """The address of the trial's run in MLflow; None if it has no run."""
    return f"{current_settings().mlflow_ui_url}/#/runs/{trial.run_id}" if trial.run_id else None


def ray_dashboard_url() -> str | None:
    """The address of Ray's dashboard; None if it is not set."""
    return current_settings().ray_dashboard_url


def mlflow_problem() -> str | None:
    """Why MLflow's server does not answer; None if it answers or is not used."""
    uri = current_settings().mlflow_uri
    return _mlflow_problem(uri) if uri.startswith(("http://", "https://")) else None


@st.cache_resource(ttl=3600, max_entries=16, show_spinner=False)
def _followed(folder: Path, writer: str, _run: Run) -> _Followed:
    """Args: writer: of a recorded run; another process replaces the last steps of its record"""
    return _Followed(read_series(folder, outline_of(_run)))


@st.cache_data(ttl=FRESH_SECONDS, max_entries=256, show_spinner=False)
def _load_window(folder: Path, _run: Run, last: int, steps: int) -> Window:
    history = read_history(folder, first=max(1, last - steps + 1), last=last, columns=["load"])
    if not len(history.step_S):
        return Window(last, last, np.zeros((0, 0), np.int16))
    util_LE = utilisation(history.count_SLE.sum(axis=0, dtype=np.int64), outline_of(_run).target_E)
    return Window(int(history.step_S[0]), int(history.step_S[-1]), percent_of_fair(util_LE))


@st.cache_data(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _recent(folder: Path, _run: Run, last: int, steps: int) -> Recent:
    history = read_history(folder, first=max(1, last - steps + 1), last=last, columns=["load"])
    first = int(history.step_S[0]) if len(history.step_S) else last
    found = waits([history], outline_of(_run).shape.num_experts)
    return Recent(first, last, history.count_SLE.sum(axis=0, dtype=np.int64), found)


@st.cache_data(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _eval_percent(folder: Path, _run: Run, version: int) -> NDArray[np.int16] | None:
    count_LE = read_eval_counts(folder)
    if count_LE is None:
        return None
    return percent_of_fair(utilisation(count_LE, outline_of(_run).target_E))


@st.cache_data(ttl=10 * FRESH_SECONDS, max_entries=16, show_spinner=False)
def _eval_detail(folder: Path, attempt: int) -> tuple[Detail, list[str]]:
    problems: list[str] = []

    def read(reader: Callable[[Path], Array | None]) -> Array | None:
        try:
            return reader(folder)
        except DamagedFile as error:
            problems.append(f"{error}.")
            return None

    return Detail(
        read(evaluation_arrays.read_groups),
        read(evaluation_arrays.read_by_k),
        read(evaluation_arrays.read_routes),
    ), problems


@st.cache_data(ttl=3600, max_entries=64, show_spinner=False)
def _torn_files(folder: Path, version: int) -> list[Part]:
    return torn(folder)


@st.cache_data(ttl=FRESH_SECONDS, max_entries=64, show_spinner=False)
def _system_samples(folder: Path, attempt: int) -> dict[str, NDArray[Any]]:
    return read_samples(folder)


@st.cache_data(ttl=PROBE_SECONDS, max_entries=4, show_spinner=False, refresh_mode="background")
def _mlflow_problem(uri: str) -> str | None:
    address = f"{shown_address(uri).rstrip('/')}/health"  # needs no login
    try:
        with urllib.request.urlopen(address, timeout=PROBE_TIMEOUT_SECONDS):
            return None
    except (OSError, HTTPException, ValueError) as error:
        return without_secrets_of(uri, getattr(error, "reason", error))
