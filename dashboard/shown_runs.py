"""What pages show the loads of: trials of sweeps, and recorded runs, in the same charts."""

import math
from pathlib import Path

import numpy as np
import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.record_tables import figure, spec_of
from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.loads import Loads
from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE, LossUnit
from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.recorded_runs import RecordedRun, RunState, recorded_runs
from evenload.pipeline.settings import current_settings
from evenload.pipeline.spec.load_shape import RunOutline
from evenload.pipeline.states import TrialRecord

FRESH_SECONDS = 2.0  # several viewers of a live page share one read

Run = TrialRecord | RecordedRun


def recorded() -> dict[str, RecordedRun]:
    """The recorded runs of this home by id, newest first."""
    return _recorded(current_settings().root)


def forget() -> None:
    """Clears the list of recorded runs, so that one which has just begun is found."""
    _recorded.clear()


def sweep_ids() -> list[str]:
    """The ids of all sweeps, newest first; none in a home with recorded runs alone.

    Raises:   SpecError: there are neither runs nor a store
    """
    try:
        return queries.sweep_ids()
    except SpecError:
        if not recorded():
            raise
        return []


def find(key: str) -> Run:
    """The recorded run of this id, else the trial of this digest.  Raises: SpecError: neither"""
    return recorded().get(key) or queries.trial(key)


def key_of(run: Run) -> str:
    return run.run_id if isinstance(run, RecordedRun) else run.digest


def folder_of(run: Run) -> Path:
    """Where its shards are."""
    return (
        run.folder if isinstance(run, RecordedRun) else readable_dir(current_settings(), run.digest)
    )


def outline_of(run: Run) -> RunOutline:
    return run.outline if isinstance(run, RecordedRun) else spec_of(run).outline


def is_over(run: Run) -> bool:
    if isinstance(run, RecordedRun):
        return run.state() is RunState.ENDED
    return run.state.is_final


def version_of(run: Run) -> int:
    """Another number if a run that was over has gone on."""
    return run.last_step if isinstance(run, RecordedRun) else run.attempt


def steps_of(run: Run, series: LoadSeries) -> int:
    """The planned steps; those recorded where nobody planned."""
    planned = run.planned_steps if isinstance(run, RecordedRun) else spec_of(run).train.steps
    return max(planned or 0, series.last_step, 1)


def tokens_of(run: Run, series: LoadSeries) -> int:
    """Tokens of an optimizer step; their mean where they vary."""
    return outline_of(run).tokens or series.tokens_per_step


def chance(run: Run, series: LoadSeries) -> Loads:
    """Loads without counts, for the figures of chance."""
    shape, target_E = outline_of(run).shape, outline_of(run).target_E
    empty_SLE = np.zeros((0, shape.num_layers, shape.num_experts), np.int32)
    return Loads(empty_SLE, tokens_of(run, series), shape.top_k, target_E)


def figure_of(run: Run, name: str, unit: LossUnit = BITS_PER_BYTE) -> float:
    """A figure of the steady state, with shares in percent; NaN if it is missing."""
    if not isinstance(run, RecordedRun):
        return figure(run, name, unit)
    value = _figures(run.folder, run.last_step, run).get(name, math.nan)
    return 100 * value if METRICS[name].is_share else value


@st.cache_resource(ttl=FRESH_SECONDS, max_entries=4, show_spinner=False)
def _recorded(home: Path) -> dict[str, RecordedRun]:
    return {run.run_id: run for run in recorded_runs(home)}


@st.cache_data(max_entries=256, show_spinner=False)
def _figures(folder: Path, last_step: int, _run: RecordedRun) -> dict[str, float]:
    return _run.figures()
