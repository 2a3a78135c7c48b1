"""What commands share: settings, a migrated store, resolved trials, JSON output.

Store and plan are imported where they are used: a GPU machine without them runs benchmarks.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console

from pipeline.confinement import check_paths
from pipeline.errors import SpecError, first_message
from pipeline.records import TrialRecord
from pipeline.settings import Settings
from pipeline.spec import TrialSpec
from pipeline.sweep_spec import SweepSpec

if TYPE_CHECKING:
    from pipeline.store.sweep_store import SweepStore
    from pipeline.sweep.recommend import Recommendation

PIPE_WIDTH = 144  # of tables that go to a file or a pipe
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
log = Console(stderr=True)


def load_settings(home: Path | None = None) -> Settings:
    """Flags, then the environment, then defaults.  Raises: SpecError"""
    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        rest = first_message(error).removeprefix(key)
        raise SpecError(f"environment: EVENLOAD_{key.upper()}{rest}") from None


def open_store(settings: Settings) -> SweepStore:
    """The store, created or upgraded first.  Raises: SpecError: no home, no such database"""
    from pipeline.store.sweep_store import SweepStore

    make_home(settings)
    store = SweepStore(settings.store_url)
    store.migrate()
    return store


def make_home(settings: Settings) -> None:
    """The home is a folder from here on, which may be for reading alone.  Raises: SpecError"""
    try:
        settings.root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # what stands there is no folder
        raise _unusable(settings, os.strerror(errno.ENOTDIR)) from None
    except OSError as error:
        raise _unusable(settings, error.strerror) from None


def _unusable(settings: Settings, reason: str | None) -> SpecError:
    return SpecError(
        f"home={str(settings.home)!r}: {reason}; set EVENLOAD_HOME or --home to a folder that "
        "can be written"
    )


def identified(
    spec: SweepSpec, settings: Settings, has_cuda: bool | None = None
) -> list[tuple[str, TrialSpec]]:
    """The trials that a sweep begins with, as `identify` gives them."""
    from pipeline.sweep.search import propose

    proposed = propose(spec)
    trials = identify(proposed, settings, has_cuda)
    asked = {trial.runtime.device for trial in proposed}
    if "auto" in asked and "cuda" not in {trial.runtime.device for _, trial in trials}:
        log.print("[dim]no CUDA device: `device: auto` stands for the CPU[/]")
    return trials


def identify(
    proposed: Sequence[TrialSpec], settings: Settings, has_cuda: bool | None = None
) -> list[tuple[str, TrialSpec]]:
    """Trials with their digests, resolved for where they will run and checked against their data.

    Args:     has_cuda: whether the workers have GPUs; None: they are here
    Raises:   SpecError: a home that cannot be written, a back end or device that cannot run, a
              corpus that does not fit
    """
    make_home(settings)
    if not os.access(settings.root, os.W_OK):  # corpora are written there
        raise _unusable(settings, os.strerror(errno.EACCES))
    # With torch: who only reads the store need not wait for it.
    from workers.data.corpus import check_fits, prepare
    from workers.training.identity import resolve, trial_digest

    trials = [resolve(_whole(trial, settings), has_cuda) for trial in proposed]
    for data in {trial.data for trial in trials}:
        check_paths(data, settings.data_root)
    for trial in trials:
        check_fits(trial, prepare(trial.data, settings.corpus_dir))
    return [(trial_digest(trial, settings), trial) for trial in trials]


def _whole(trial: TrialSpec, settings: Settings) -> TrialSpec:
    """A trial that extends another takes everything from it but its number of steps."""
    if trial.extends is None:
        return trial
    from pipeline.store.sweep_store import SweepStore

    parent = SweepStore(settings.store_url).trial(trial.extends)
    train = parent.spec["train"]
    if trial.train.steps <= train["steps"]:
        raise SpecError(
            f"train.steps={trial.train.steps}: trial {parent.digest}, which it extends, has "
            f"{train['steps']} already; take more"
        )
    longer = {"train": train | {"steps": trial.train.steps}, "extends": trial.extends}
    return TrialSpec.model_validate(parent.spec | longer)


def sweep_document(
    sweep_id: str, trials: Sequence[TrialRecord], answer: Recommendation
) -> dict[str, Any]:
    """A sweep's outcome as one JSON value."""
    evidence = answer._asdict()
    return {
        "sweep_id": sweep_id,
        "trials": [trial_document(trial) for trial in trials],
        "recommendation": evidence.pop("sentence"),
        "recommended": evidence.pop("best"),
        **evidence,
    }


def trial_document(trial: TrialRecord) -> dict[str, Any]:
    return {"num_experts": trial.spec["model"]["num_experts"], **dataclasses.asdict(trial)}


def print_json(document: Any) -> None:
    """Exactly one document on standard output; NaN, which JSON lacks, becomes null."""
    sys.stdout.write(json.dumps(_plain(document), indent=2) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | Path):
        return str(value)
    return value
