"""Lets a trial continue where a shorter one with the same spec ended.

The longer trial gets copies of the records and the last checkpoint, and then resumes as usual. From
its next step on, the learning rate and every schedule follow its own length. If neither depends on
the length (`schedule: constant` and a constant step size), it equals a trial that had this length
from the beginning, bit for bit on CPU.
"""

import shutil
from pathlib import Path

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.fence import OPEN, Fence
from evenload.pipeline.settings import Settings
from evenload.workers.training import checkpoint
from evenload.workers.training.loop import checkpoint_dir

RECORDS = ("expert_load", "steps")


def inherit(settings: Settings, digest: str, parent: str, fence: Fence = OPEN) -> None:
    """Copies records and checkpoint of the parent, unless trial `digest` has its own checkpoint.

    Raises:   SpecError: the parent has no checkpoint
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
            _copy(part, settings.trial_dir(digest) / folder / part.name, fence)
    _copy(last, own / last.name, fence)  # copied last, so that a checkpoint implies its records


def _copy(source: Path, target: Path, fence: Fence) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with fence.staged(target) as staging:
        shutil.copyfile(source, staging)
