"""A trial that goes on where a shorter one ended: same spec, more steps.

It gets that trial's records and its last checkpoint as if it had written them itself. Then it is a
trial that resumes: learning rate and every schedule over the run are those of its own length from
the next step on. Where neither depends on the length (`schedule: constant` and a constant step
size), it equals a trial that was that long from the beginning, bit for bit on CPU.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.workers.training import checkpoint
from evenload.workers.training.loop import checkpoint_dir

RECORDS = ("expert_load", "steps")


def inherit(settings: Settings, digest: str, parent: str) -> None:
    """Copies what trial `digest` starts from, unless it has a checkpoint of its own.

    Raises:   SpecError: the parent's checkpoint is not there
    """
    own = checkpoint_dir(settings, digest)
    if checkpoint.newest(own) is not None:
        return
    last = checkpoint.newest(checkpoint_dir(settings, parent))
    if last is None:
        raise SpecError(
            f"extends={parent!r}: no checkpoint in {checkpoint_dir(settings, parent)}; "
            "train that trial here first"
        )
    for folder in RECORDS:
        for part in (settings.trial_dir(parent) / folder).glob("part-*.parquet"):
            _copy(part, settings.trial_dir(digest) / folder / part.name)
    _copy(last, own / last.name)  # last: who has it has the records


def _copy(source: Path, target: Path) -> None:
    """Complete or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_suffix(".tmp")
    shutil.copyfile(source, staging)
    staging.rename(target)
