"""Removes a sweep, or what no sweep needs, with files, mirrored files, MLflow runs and rows."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from evenload.pipeline.extras import require
from evenload.pipeline.records.mirror import Mirror
from evenload.pipeline.settings import DIGEST, Settings
from evenload.pipeline.store.sweep_store import SweepStore


def remove_sweep(store: SweepStore, settings: Settings, sweep_id: str) -> list[str]:
    """Removes a sweep and the trials that no other sweep lists; returns their digests.

    Rows are removed last, so that an interrupted removal can be repeated. Corpora are kept, because
    sweeps share them.

    Raises:   SpecError: the sweep still runs, see `SweepStore.delete`
              OSError, MlflowException: the object store or MLflow does not answer; only files are
              removed so far
    """
    digests = store.deletable(sweep_id)
    runs = [store.sweep(sweep_id).parent_run_id, *(store.trial(each).run_id for each in digests)]
    _require_mlflow(runs)
    for digest in digests:
        _remove_files(settings, digest)
    _remove_runs(settings, runs)
    return store.delete(sweep_id)


class Orphan(NamedTuple):
    """What is left of a trial that no sweep needs."""

    digest: str
    why: str
    bytes: int  # on the local disk
    is_mirrored: bool = False
    run_id: str | None = None  # in MLflow


def find_orphans(store: SweepStore, settings: Settings) -> list[Orphan]:
    """Trials that no sweep lists, that nobody holds and none extends, and folders without a trial.

    Raises:   MirrorUnavailable
    """
    # Folders first: a trial has its row before it has a folder.
    folders = {path.name for path in (*_local(settings, "trials"), *_local(settings, "mirrored"))}
    mirrored = Mirror(settings.mirror_url).digests() if settings.mirror_url else set()
    unlisted = {row.digest: row for row in store.unlisted()}
    strays = sorted((folders | mirrored) - store.digests())
    return [
        Orphan(
            digest,
            f"{unlisted[digest].state}, in no sweep" if digest in unlisted else "no trial owns it",
            sum(map(_bytes_below, _folders(settings, digest))),
            digest in mirrored,
            unlisted[digest].run_id if digest in unlisted else None,
        )
        for digest in (*unlisted, *strays)
    ]


def remove_orphans(store: SweepStore, settings: Settings, found: Iterable[Orphan]) -> list[Orphan]:
    """Removes those that are still orphans, and returns them.

    Rows are removed first, so that nobody claims such a trial; files that an interruption leaves
    are found again.

    Raises:   OSError, MlflowException: the object store or MLflow does not answer
    """
    found = list(found)
    _require_mlflow([orphan.run_id for orphan in found])
    gone = {*store.delete_unlisted([orphan.digest for orphan in found])}
    known = store.digests()
    left = [orphan for orphan in found if orphan.digest in gone or orphan.digest not in known]
    _remove_runs(settings, [orphan.run_id for orphan in left])
    for orphan in left:
        _remove_files(settings, orphan.digest)
    return left


def _local(settings: Settings, folder: str) -> Iterable[Path]:
    paths = (settings.root / folder).glob("*")
    return (path for path in paths if path.is_dir() and DIGEST.fullmatch(path.name))


def _folders(settings: Settings, digest: str) -> tuple[Path, Path]:
    return settings.trial_dir(digest), settings.root / "mirrored" / digest


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _remove_files(settings: Settings, digest: str) -> None:
    for folder in _folders(settings, digest):
        shutil.rmtree(folder, ignore_errors=True)
    if settings.mirror_url is not None:
        Mirror(settings.mirror_url).delete(digest)


def _require_mlflow(runs: Iterable[str | None]) -> None:
    if any(runs):
        require("mlflow")  # before anything is gone


def _remove_runs(settings: Settings, runs: Iterable[str | None]) -> None:
    if found := [run for run in runs if run is not None]:
        from evenload.pipeline.records.mlflow_runs import remove_runs

        remove_runs(settings, found)
