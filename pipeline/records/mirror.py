"""Trial folders in an object store, for workers and readers that share no disk.

    <mirror_url>/trials/<digest>/index.json   the files that belong together, with their SHA-256
    <mirror_url>/trials/<digest>/<path>       as below the local trial folder

Files are written first, the index next, and what it no longer lists is removed last: whoever reads
the index at any moment finds a state that a run can go on from. Files that a later attempt
overwrites in place lie after the newest checkpoint of the index, where a resumed run drops them.
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

from evenload.pipeline.errors import SpecError, TrackingUnavailable
from evenload.pipeline.records.parquet_files import replace
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState

logger = logging.getLogger(__name__)

INDEX = "index.json"
UNFINISHED = ".tmp"
STATE = ("checkpoints/", "expert_load/", "steps/")  # what a run goes on from
RETRY_SECONDS = 2.0
READERS_REFRESH_SECONDS = 5.0

Result = TypeVar("Result")
Index = dict[str, str]  # path below the trial folder -> SHA-256


class Mirror:
    """One object store.

    Args:     url: of fsspec, e.g. s3://bucket/prefix; credentials as its file system finds them
    Raises:   SpecError: a URL of no installed file system
    """

    def __init__(self, url: str) -> None:
        try:
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise SpecError(f"mirror_url={url!r} cannot be opened: {error}") from None

    def index(self, digest: str) -> Index:
        """Empty where the trial is not mirrored.  Raises: OSError"""
        try:
            return cast(Index, json.loads(self._files.cat_file(self._path(digest, INDEX))))
        except FileNotFoundError:
            return {}

    def push(self, digest: str, trial_dir: Path, known: Index) -> Index:
        """Carries over what changed in the local trial since it was as in `known`.

        What others mirrored since then stays: an evaluation begins while training still ends.
        Returns:  the local trial as it is now, for the next push
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
        """Makes the local trial equal to the mirrored one, where there is one.

        State that lies only here is deleted: another worker went on from the mirrored one since.
        Returns:  what is mirrored, with the content that lies here now: what a push begins from
        Raises:   OSError
        """
        wanted = self.index(digest)
        if not wanted:
            return {}
        found = dict(_local(trial_dir))
        pulled: Index = {}
        for path in _in_order(wanted):
            pulled[path] = wanted[path]
            if found.get(path) != wanted[path]:
                local = _inside(trial_dir, path)
                local.parent.mkdir(parents=True, exist_ok=True)
                content = self._files.cat_file(self._path(digest, path))
                replace(local, content)
                pulled[path] = _sha256(content)  # newer than the index while somebody pushes
        for path in found.keys() - wanted.keys():
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
    """An index says what to write where, but not outside of its trial."""
    local = trial_dir / path
    if not local.resolve().is_relative_to(trial_dir.resolve()):
        raise OSError(f"the mirror's index names {path!r}, which is no file of the trial")
    return local


class MirrorSink:
    """Pushes at every checkpoint, and at the end what was written since.

    A store that is away is tried again for `patience_seconds`, then counted; the next checkpoint
    carries everything. It begins from what `fetch` found: of files that another worker mirrored
    later it knows nothing, so it neither deletes nor overwrites them.
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
            logger.warning("not mirrored, the next checkpoint tries again: %s", error)


def fetch(settings: Settings, digest: str) -> None:
    """Before an attempt: the trial folder as its last worker left it, wherever that was.

    Raises:   TrackingUnavailable: no answer within the patience
    """
    if settings.mirror_url is None:
        return
    mirror = Mirror(settings.mirror_url)
    pulled = _patiently(settings, lambda: mirror.pull(digest, settings.trial_dir(digest)))
    record = _fetch_record(settings, digest)
    record.parent.mkdir(parents=True, exist_ok=True)
    replace(record, json.dumps(pulled, indent=1).encode())


def _fetched(settings: Settings, digest: str) -> Index:
    """What the last `fetch` found; empty where there was none, and all that is local is pushed."""
    try:
        return cast(Index, json.loads(_fetch_record(settings, digest).read_bytes()))
    except FileNotFoundError:
        return {}


def _fetch_record(settings: Settings, digest: str) -> Path:
    """Beside the trial folder: what lies in that is mirrored."""
    return settings.root / "mirrored" / f"{digest}.fetched.json"


def readable_dir(settings: Settings, digest: str) -> Path:
    """The folder to read a trial from. With a mirror: a copy, at most some seconds old.

    A copy, because a reader beside a worker must not delete what that one has not yet pushed.
    Where the store does not answer it is the copy as it was.
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
            logger.warning("%s is shown as it was: %s", digest, error)
    return copy


def _patiently(settings: Settings, call: Callable[[], Result]) -> Result:
    """The call's answer, tried again for as long as a trial waits for tracking.

    Raises:   TrackingUnavailable: none within that time; PermissionError: refused
    """
    deadline = time.monotonic() + settings.tracking_patience_seconds
    while True:
        try:
            return _asked(call)
        except PermissionError:  # no waiting gives access: the trial fails and says so
            raise
        except OSError as error:
            if time.monotonic() + RETRY_SECONDS > deadline:
                raise TrackingUnavailable(f"the mirror does not answer: {error}") from error
        time.sleep(RETRY_SECONDS)


def _asked(call: Callable[[], Result]) -> Result:
    """The call's answer.  Raises: OSError: also where S3's library has an error of its own"""
    try:
        return call()
    except Exception as error:
        if _is_outage_of_s3(error):
            raise ConnectionError(str(error)) from error
        raise


def _is_outage_of_s3(error: Exception) -> bool:
    """By name: botocore is not installed everywhere, and its connection errors are no OSError."""
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
    """Checkpoints last: one that is there has its records beside it."""
    return sorted(index, key=lambda path: (path.startswith("checkpoints/"), path))
