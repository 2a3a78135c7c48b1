"""Reads the data of the cost page: the newest recorded loads of each trial. Cached."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import streamlit as st

from evenload.dashboard.record_tables import spec_of
from evenload.pipeline.figures.cost import Recorded, Waiting, recorded, waiting, waits
from evenload.pipeline.figures.loads import History
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.recorded_runs import RecordedRun
from evenload.pipeline.records.shards import iter_history, parts
from evenload.pipeline.settings import current_settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord

LAST_STEPS = 1000  # largest number of steps that are read of a trial
MAX_KNOWN = 20_000  # largest number of trials whose loads are cached

Key = tuple[str, int, int]  # digest, attempt, step; the step because a trial goes on training


def what_waits(trials: Iterable[TrialRecord]) -> Iterator[tuple[TrialRecord, tuple[Waiting, ...]]]:
    """Each trial with its waiting by ranks, which is empty if its loads are not recorded here."""
    settings = current_settings()  # once: it reads the environment
    known = _known(settings.root)
    for trial in trials:
        key = (trial.digest, trial.attempt, trial.progress.step if trial.progress else 0)
        spec = spec_of(trial)
        if key not in known:
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[key] = recorded_loads(readable_dir(settings, trial.digest), spec)
        yield trial, waiting(known[key], spec.model, spec.train.seq_len)


def expert_waits(run: RecordedRun) -> dict[int, float]:
    """The share of the expert layers' time that is lost by waiting, by ranks."""
    return _expert_waits(run.folder, run.last_step, run.shape.num_experts)


@st.cache_data(max_entries=256, show_spinner=False)
def _expert_waits(folder: Path, last: int, num_experts: int) -> dict[int, float]:
    found = waits(_latest(folder, last), num_experts)
    return {ranks: 1 - 1 / stretch for ranks, stretch in found.stretch.items()}


def recorded_loads(folder: Path, spec: TrialSpec) -> Recorded:
    """The loads of the last quarter of the recorded steps, at most LAST_STEPS of them."""
    found = parts(folder / "expert_load")
    return recorded(_latest(folder, found[-1].last if found else 0), spec)


def _latest(folder: Path, last: int) -> Iterator[History]:
    first = max(1, last - min(LAST_STEPS, max(1, last // 4)) + 1)
    return iter_history(folder, first=first, columns=["load"])


@st.cache_resource(max_entries=4)
def _known(root: Path) -> dict[Key, Recorded]:
    return {}
