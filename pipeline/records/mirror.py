"""Copies of trial folders in an object store, for workers and readers that share no disk.

    <mirror_url>/trials/<digest>/index.json   the files that belong together, with their SHA-256
    <mirror_url>/trials/<digest>/<path>       the file at <path> below the local trial folder

A push writes files first, then the index, and last deletes files that the index no longer lists.
So the index always describes a state that a run can resume from. An attempt overwrites only records
of steps after the newest mirrored checkpoint. A resumed run drops those records anyway.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import fsspec

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import SpecError, TrackingUnavailable
from evenload.pipeline.records.parquet_files import replace
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState

logger = logging.getLogger(__name__)

INDEX = "index.json"
UNFINISHED = ".tmp"
STATE = ("checkpoints/", "expert_load/", "steps/")  # the folders that a run resumes from
RETRY_SECONDS = 2.0
READERS_REFRESH_SECONDS = 5.0

Result = TypeVar("Result")
Index = dict[str, str]  # path below the trial folder -> SHA-256


class Mirror:
    """One object store.

    Args:     url: a URL of fsspec, such as s3://bucket/prefix; its file system finds credentials
    Raises:   SpecError: no file system for the URL is installed, or it refuses the URL
              OSError: the store does not answer
    """

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - file systems raise their own for a wrong URL
            raise SpecError(
                f"mirror_url={shown_address(url)!r} cannot be opened "
                f"({without_secrets_of(url, error)}); check the URL, and install the fsspec file "
                "system that it needs"
            ) from None

    def index(self, digest: str) -> Index:
        """The index of a mirrored trial; empty if the trial is not mirrored.  Raises: OSError"""
        try:
            return cast(Index, json.loads(self._files.cat_file(self._path(digest, INDEX))))
        except FileNotFoundError:
            return {}

    def push(self, digest: str, trial_dir: Path, known: Index) -> Index:
        """Uploads the files of the local trial that differ from `known`.

        Files that other workers mirrored since then are kept, because an evaluation may begin
        while the training still ends.

        Returns:  the local files as they are now, to be passed as `known` to the next push
        Raises:   OSError
        """
        now = dict(_local(trial_dir))
        changed = {path: content for path, content in now.items() if known.get(path) != content}
        gone = known.keys() - now.keys()
        for path in _in_order(changed):
            self._files.pipe_file(self._path(digest, path), (trial_dir / path).read_bytes())
        mirrored = self.index(digest)
        index = {path: mirrored[path] for path in mirrored if path not in gone} | changed
        self._files.pipe_file(self._path(digest, INDEX), json.dumps(index, indent=1).encode())
        for path in gone & mirrored.keys():
            self._files.rm_file(self._path(digest, path))
        return now

    def pull(self, digest: str, trial_dir: Path) -> Index:
        """Makes the local trial equal to the mirrored one, if there is one.

        Local checkpoints and records that are not mirrored are deleted, because another worker
        has continued from the mirrored ones.

        Returns:  the mirrored files with their local content, for the first push
        Raises:   OSError
        """
        mirrored = self.index(digest)
        if not mirrored:
            return {}
        found = dict(_local(trial_dir))
        pulled: Index = {}
        for path in _in_order(mirrored):
            pulled[path] = mirrored[path]
            if found.get(path) != mirrored[path]:
                local = _inside(trial_dir, path)
                local.parent.mkdir(parents=True, exist_ok=True)
                content = self._files.cat_file(self._path(digest, path))
                replace(local, content)
                pulled[path] = _sha256(content)  # newer than the index during somebody's push
        for path in found.keys() - mirrored.keys():
            if path.startswith(STATE):
                (trial_dir / path).unlink(missing_ok=True)
        return pulled

    def delete(self, digest: str) -> None:
        """Removes the mirrored trial.  Raises: OSError"""
        folder = self._path(digest, "")
        if self._files.exists(folder):
            self._files.rm(folder, recursive=True)

    def _path(self, digest: str, path: str) -> str:
        return f"{self._root.rstrip('/')}/trials/{digest}/{path}"


def _inside(trial_dir: Path, path: str) -> Path:
    """The local path of an indexed file.  Raises: OSError: the path leads out of the trial"""
    local = trial_dir / path
    if not local.resolve().is_relative_to(trial_dir.resolve()):
        raise OSError(f"the mirror's index names {path!r}, which is outside of the trial's folder")
    return local


class MirrorSink:
    """Pushes the trial at every checkpoint and at its end.

    If the object store does not answer within `tracking_patience_seconds`, the failure is counted
    and the next push uploads everything. The first push compares with what `fetch` pulled, so it
    neither deletes nor overwrites files that another worker has mirrored since.
    """

    def __init__(self, mirror: Mirror, settings: Settings) -> None:
        self.errors = 0
        self._mirror = mirror
        self._settings = settings
        self._digest = ""
        self._known: Index = {}

    def start(self, run: RunIdentity) -> None:
        self._digest = run.digest
        self._known = _fetched(self._settings, run.digest)

    def log_steps(self, records: Sequence[StepRecord]) -> None: ...

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self, step: int, uri: str) -> None:
        self._push()

    def close(self, state: TrialState, result: dict[str, Any], error: str | None = None) -> None:
        self._push()

    def _push(self) -> None:
        folder = self._settings.trial_dir(self._digest)
        try:
            self._known = _patiently(
                self._settings, lambda: self._mirror.push(self._digest, folder, self._known)
            )
        except OSError as error:
            self.errors += 1
            logger.warning("trial not mirrored; the next checkpoint tries again: %s", error)


def fetch(settings: Settings, digest: str) -> None:
    """Pulls the trial folder as its last worker left it. Call it before an attempt.

    Raises:   TrackingUnavailable: no answer within `tracking_patience_seconds`
    """
    if settings.mirror_url is None:
        return
    mirror = Mirror(settings.mirror_url)
    pulled = _patiently(settings, lambda: mirror.pull(digest, settings.trial_dir(digest)))
    record = _fetch_record(settings, digest)
    record.parent.mkdir(parents=True, exist_ok=True)
    replace(record, json.dumps(pulled, indent=1).encode())


def _fetched(settings: Settings, digest: str) -> Index:
    """What the last `fetch` pulled; empty without a fetch, so that every local file is pushed."""
    try:
        return cast(Index, json.loads(_fetch_record(settings, digest).read_bytes()))
    except FileNotFoundError:
        return {}


def _fetch_record(settings: Settings, digest: str) -> Path:
    """The file that remembers a fetch, outside of the trial folder because that is mirrored."""
    return settings.root / "mirrored" / f"{digest}.fetched.json"


def readable_dir(settings: Settings, digest: str) -> Path:
    """The folder to read a trial from. With a mirror it is a copy, at most some seconds old.

    Readers need a copy, because a pull into a worker's folder would delete what the worker has not
    pushed yet. If the object store does not answer, the copy stays as it is.
    """
    if settings.mirror_url is None:
        return settings.trial_dir(digest)
    copy = settings.root / "mirrored" / digest
    stamp = copy.with_suffix(".pulled")
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > READERS_REFRESH_SECONDS:
        copy.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        try:
            mirror = Mirror(settings.mirror_url)
            _asked(lambda: mirror.pull(digest, copy))
        except OSError as error:
            logger.warning("mirror not read, an older copy of %s is shown: %s", digest, error)
    return copy


def _patiently(settings: Settings, call: Callable[[], Result]) -> Result:
    """The call's result. An outage is retried for `tracking_patience_seconds`.

    Raises:   TrackingUnavailable: no answer within that time; PermissionError: access was refused
    """
    deadline = time.monotonic() + settings.tracking_patience_seconds
    while True:
        try:
            return _asked(call)
        except PermissionError:  # waiting does not help, so the trial fails with this error
            raise
        except OSError as error:
            if time.monotonic() + RETRY_SECONDS > deadline:
                reason = without_secrets_of(str(settings.mirror_url), error)
                raise TrackingUnavailable(f"the mirror does not answer: {reason}") from error
        time.sleep(RETRY_SECONDS)


def _asked(call: Callable[[], Result]) -> Result:
    """The call's result.  Raises: OSError: also for connection errors of S3's own library"""
    try:
        return call()
    except Exception as error:
        if _is_outage_of_s3(error):
            raise ConnectionError(str(error)) from error
        raise


def _is_outage_of_s3(error: Exception) -> bool:
    """Whether this is a connection error of botocore, which need not be installed.

    Such errors are not OSErrors, so they are recognised by module and name.
    """
    return any(
        base.__module__.partition(".")[0] in ("botocore", "aiobotocore")
        and base.__name__ in ("ConnectionError", "HTTPClientError")
        for base in type(error).__mro__
    )


def _local(trial_dir: Path) -> Iterator[tuple[str, str]]:
    for path in trial_dir.rglob("*"):
        if path.is_file() and path.suffix != UNFINISHED:
            yield path.relative_to(trial_dir).as_posix(), _sha256(path.read_bytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _in_order(index: Index) -> list[str]:
    """The paths, checkpoints last, so that no checkpoint is mirrored before its records."""
    return sorted(index, key=lambda path: (path.startswith("checkpoints/"), path))
