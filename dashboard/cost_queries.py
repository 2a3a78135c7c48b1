"""What the page of costs reads: the newest recorded loads of each trial. Cached, read-only."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard.frames import spec_of
from pipeline.cost import Recorded, recorded
from pipeline.records import TrialRecord
from pipeline.settings import Settings
from pipeline.tracking.load_log import iter_history, parts
from pipeline.tracking.mirror import readable_dir

LAST_STEPS = 1000  # at most; within the last quarter of the run, where it is that far


def recorded_loads(trial: TrialRecord) -> Recorded:
    """Of the last recorded steps; without any step, or without shards here, it is empty."""
    folder = readable_dir(Settings(), trial.digest)
    step = trial.progress.step if trial.progress else 0
    return _recorded(folder, trial.digest, trial.attempt, step, str(trial.state), trial)


@st.cache_data(max_entries=4096, show_spinner=False)
def _recorded(
    folder: Path, digest: str, attempt: int, step: int, state: str, _trial: TrialRecord
) -> Recorded:
    spec = spec_of(_trial)
    found = parts(folder / "expert_load")
    last = found[-1].last if found else 0
    first = max(1, last - min(LAST_STEPS, max(1, last // 4)) + 1)
    return recorded(iter_history(folder, first=first, columns=["load"]), spec)
