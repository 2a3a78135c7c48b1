"""Finds what is missing of a trial's records, so that no reader leaves it out in silence."""

import json
from collections.abc import Iterator
from pathlib import Path

from evenload.pipeline.records.shards import MANIFEST, newest_checkpoint, parts, torn_files
from evenload.pipeline.states import TrialRecord, TrialState

TRAINED = (TrialState.TRAINED, TrialState.EVALUATING, TrialState.COMPLETED)
REMEDY = "restore it from a backup or the mirror"


def lost_records(trial_dir: Path, trial: TrialRecord) -> str:
    """What should be in the trial's folder and cannot be read, with its path; empty if nothing."""
    if not trial_dir.is_dir():
        has_any = trial.state in TRAINED or (trial.progress is not None and trial.progress.step > 0)
        return f"{trial_dir} is missing; {REMEDY}" if has_any else ""
    steps = trial.spec["train"]["steps"] if trial.state in TRAINED else newest_checkpoint(trial_dir)
    if not steps or trial.state is TrialState.TRAINING:  # its files are being replaced
        return ""
    found = [*_damaged(trial_dir), *_gaps(trial_dir, steps)]
    more = f" and {len(found) - 1} others" if len(found) > 1 else ""
    return f"{found[0]}{more}; {REMEDY}" if found else ""


def _damaged(trial_dir: Path) -> Iterator[str]:
    yield from (f"{part.path} is cut off" for part in torn_files(trial_dir))
    manifest = trial_dir / "expert_load" / MANIFEST
    try:
        json.loads(manifest.read_bytes())
    except (OSError, ValueError) as error:
        yield f"{manifest} cannot be read ({getattr(error, 'strerror', None) or 'no JSON'})"


def _gaps(trial_dir: Path, steps: int) -> Iterator[str]:
    for folder in (trial_dir / "expert_load", trial_dir / "steps"):
        done = 0
        for part in [*parts(folder), None]:
            first, last = (part.first, part.last) if part else (steps + 1, steps)
            if first > done + 1:
                yield f"{folder} has no steps {done + 1} to {first - 1}"
            done = max(done, last)
