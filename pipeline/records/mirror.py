"""Copies of trial folders in an object store, for workers and readers that share no disk.

    <mirror_url>/trials/<digest>/<attempt>/<path>   a file that this attempt wrote at <path>
    <mirror_url>/trials/<digest>/<attempt>/LATEST   the files that belong together, written last

An attempt writes below its own number only, so attempts cannot mix, even if a lost one still
writes. The newest attempt with a LATEST counts. LATEST names, for every path, the attempt that
wrote it, its size and its time of change. Files whose size and time are equal are taken for equal.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, Self

import fsspec
from fsspec.implementations.local import LocalFileSystem

from evenload.pipeline.addresses import shown_address
from evenload.pipeline.errors import MirrorUnavailable, SpecError
from evenload.pipeline.outage import retry_while_away
from evenload.pipeline.records.fence import OWNER
from evenload.pipeline.records.shards import newest_checkpoint, parts
from evenload.pipeline.redaction import without_secrets_of
from evenload.pipeline.settings import Settings

logger = logging.getLogger(__name__)

LATEST = "LATEST"
OLD_INDEX = "index.json"  # of mirrors that were written before attempts had folders
STATE = ("checkpoints/", "expert_load/", "steps/")  # the folders that a run resumes from
CHECKPOINTS = "checkpoints/"
LOOK_SECONDS = 1.0
MAX_WAIT_SECONDS = 60.0
READERS_REFRESH_SECONDS = 5.0


class Entry(NamedTuple):
    """A mirrored file."""

    folder: str  # of the attempt that wrote it
    size: int | None = None  # None in an old index
    changed_ns: int | None = None


Files = dict[str, Entry]  # by path below the trial folder


class Mirror:
    """One object store.

    Args:     url: a URL of fsspec, such as s3://bucket/prefix; its file system finds credentials
    Raises:   SpecError: no file system for the URL is installed, or it refuses the URL
              MirrorUnavailable: from every method, if the object store does not answer
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._files, self._root = fsspec.url_to_fs(url, use_listings_cache=False)
        except OSError as error:
            raise self._away(error) from error
        except Exception as error:  # noqa: BLE001 - file systems raise their own for a wrong URL
            raise SpecError(
                f"mirror_url={shown_address(url)!r} cannot be opened "
                f"({without_secrets_of(url, error)}); check the URL, and install the fsspec file "
                "system that it needs"
            ) from None
        if isinstance(self._files, LocalFileSystem):
            self._files.auto_mkdir = True

    def push(self, digest: str, attempt: int, trial_dir: Path, last: int | None = None) -> None:
        """Uploads what the mirror lacks, unless a later attempt has mirrored something.

        Args:     last: leave out records of later steps, which the attempt still writes
        """
        own = f"{attempt:06}"  # so that names are ordered as numbers
        with self._answering():
            found = self._find(digest)
            newest, mirrored = self._newest(digest, found)
            if newest > own:
                return
            now: Files = {}
            for path in _in_order(_local(trial_dir, last)):
                entry = self._put(digest, own, path, trial_dir / path, mirrored.get(path))
                now |= {} if entry is None else {path: entry}
            if last and not any(path.startswith(CHECKPOINTS) for path in now):
                raise OSError("checkpoints are written faster than they are uploaded")
            latest = json.dumps(now, indent=1).encode()
            self._files.pipe_file(self._path(digest, own, LATEST), latest)
            needed = {f"{entry.folder}/{path}" for path, entry in now.items()}
            for name in found.keys() - needed:
                folder, _, path = name.partition("/")
                if path.startswith(STATE) and folder <= own:
                    self._files.rm_file(self._path(digest, name))

    def pull(self, digest: str, trial_dir: Path, with_checkpoints: bool = True) -> None:
        """Makes the local trial equal to the mirrored one, if there is one.

        Local checkpoints and records that are not mirrored are deleted, because another worker
        has continued from the mirrored ones.
        """
        with self._answering():
            _, mirrored = self._newest(digest, self._find(digest))
            for path in _in_order(mirrored):
                if with_checkpoints or not path.startswith(CHECKPOINTS):
                    self._get(digest, path, mirrored[path], _inside(trial_dir, path))
            for path in set(_local(trial_dir, None)) - mirrored.keys() if mirrored else ():
                if path.startswith(STATE):
                    (trial_dir / path).unlink(missing_ok=True)

    def digests(self) -> set[str]:
        """The trials of which something is mirrored."""
        with self._answering():
            if not self._files.exists(top := self._path()):
                return set()
            return {str(name).rpartition("/")[2] for name in self._files.ls(top, detail=False)}

    def delete(self, digest: str) -> None:
        """Removes the mirrored trial."""
        with self._answering():
            if self._files.exists(folder := self._path(digest)):
                self._files.rm(folder, recursive=True)

    def _put(
        self, digest: str, own: str, path: str, local: Path, known: Entry | None
    ) -> Entry | None:
        """Uploads a file that is not as it is known; None if it has been replaced meanwhile."""
        while (entry := _entry(own, local)) is not None:
            if known is not None and known[1:] == entry[1:]:
                return known
            try:
                self._files.put_file(str(local), self._path(digest, own, path))
            except FileNotFoundError:
                if local.exists():
                    raise
            if _entry(own, local) == entry:
                return entry
        return None

    def _get(self, digest: str, path: str, entry: Entry, local: Path) -> None:
        if local.is_file():
            state = local.stat()
            if state.st_size == entry.size and entry.changed_ns in (None, state.st_mtime_ns):
                return
        local.parent.mkdir(parents=True, exist_ok=True)
        staging = local.with_name(f".{local.name}.{os.getpid()}.tmp")
        try:
            self._files.get_file(self._path(digest, entry.folder, path), str(staging))
            if entry.changed_ns is not None:
                if staging.stat().st_size != entry.size:
                    raise OSError(f"{path}: {staging.stat().st_size} of {entry.size} bytes arrived")
                os.utime(staging, ns=(entry.changed_ns, entry.changed_ns))
            staging.replace(local)
        finally:
            staging.unlink(missing_ok=True)

    def _find(self, digest: str) -> dict[str, int]:
        """Names of a trial's mirrored files, `<attempt>/<path>`, with their sizes in bytes."""
        top = self._path(digest)
        found = self._files.find(top, detail=True)
        start = len(self._files._strip_protocol(top)) + 1
        return {name[start:]: about["size"] for name, about in found.items()}

    def _newest(self, digest: str, found: dict[str, int]) -> tuple[str, Files]:
        """The newest attempt with a LATEST, and the files of it; empty if nothing is mirrored."""
        newest = max((name[: -len(LATEST) - 1] for name in found if _is_latest(name)), default="")
        name = LATEST if newest else OLD_INDEX
        if not newest and OLD_INDEX not in found:
            return newest, {}
        try:
            content = json.loads(self._files.cat_file(self._path(digest, newest, name)))
        except ValueError as error:
            raise OSError(f"{newest}/{name} is damaged or just being written: {error}") from None
        old = Entry("")
        return newest, {path: Entry(*entry) if newest else old for path, entry in content.items()}

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Raises: MirrorUnavailable: for every kind of outage"""
        try:
            yield
        except PermissionError:  # waiting does not help, so the trial fails with this error
            raise
        except Exception as error:
            if isinstance(error, OSError) or _is_outage_of_s3(error):
                raise self._away(error) from error
            raise

    def _away(self, error: Exception) -> MirrorUnavailable:
        reason = without_secrets_of(self._url, error)
        return MirrorUnavailable(f"the mirror does not answer: {reason}")

    def _path(self, *names: str) -> str:
        return "/".join([self._root.rstrip("/"), "trials", *(name for name in names if name)])


class Mirrored:
    """Mirrors the attempt at a trial in a thread, whenever the attempt has a new checkpoint.

    Without `mirror_url` it does nothing. `errors` counts failed pushes. They are repeated.
    """

    def __init__(self, settings: Settings, digest: str, attempt: int) -> None:
        self.errors = 0
        self._url = settings.mirror_url
        self._mirror: Mirror | None = None  # until `begin`
        self._folder = settings.trial_dir(digest)
        self._trial = digest, attempt
        self._ended = threading.Event()
        self._pushing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def begin(self) -> None:
        """Mirrors from now on. Call it when the folder is as the last attempt left it."""
        if self._url is not None:
            self._mirror = Mirror(self._url)
            pushed = newest_checkpoint(self._folder)
            threading.Thread(target=self._follow, args=(pushed,), daemon=True).start()

    def deliver(self, stops: Callable[[], bool]) -> None:
        """Returns when everything that the attempt has written is mirrored.

        Raises:   MirrorUnavailable: it is not, and `stops` says not to wait any longer
        """
        self._ended.set()
        retry_while_away(self._push, MirrorUnavailable, stops)

    def push_rest(self) -> None:
        """Mirrors the end of the log, and records of a failure, unless the object store is away."""
        with suppress(MirrorUnavailable):
            self._push()

    def _follow(self, pushed: int) -> None:
        wait_seconds = LOOK_SECONDS
        while not self._ended.wait(wait_seconds):
            step = newest_checkpoint(self._folder)
            if step == pushed:
                continue
            try:
                self._push(step)
            except MirrorUnavailable as away:
                wait_seconds = min(2 * wait_seconds, MAX_WAIT_SECONDS)
                logger.warning("%s; training goes on", away)
            else:
                pushed, wait_seconds = step, LOOK_SECONDS

    def _push(self, last: int | None = None) -> None:
        if self._mirror is None:
            return
        try:
            with self._pushing:
                self._mirror.push(*self._trial, self._folder, last)
        except MirrorUnavailable:
            self.errors += 1
            raise


def fetch(settings: Settings, digest: str, stops: Callable[[], bool] = lambda: False) -> None:
    """Pulls the trial folder as its last worker left it. Call it before an attempt.

    Raises:   MirrorUnavailable: no answer, and `stops` says not to wait any longer
    """
    if settings.mirror_url is not None:
        mirror, folder = Mirror(settings.mirror_url), settings.trial_dir(digest)
        retry_while_away(lambda: mirror.pull(digest, folder), MirrorUnavailable, stops)


def readable_dir(settings: Settings, digest: str, with_checkpoints: bool = False) -> Path:
    """The folder to read a trial from. With a mirror it is a copy, at most some seconds old.

    Readers need a copy, because a pull into a worker's folder would delete what the worker has not
    pushed yet. If the object store does not answer, the copy stays as it is.
    """
    if settings.mirror_url is None:
        return settings.trial_dir(digest)
    copy = settings.root / "mirrored" / digest
    stamp = copy.with_suffix(".checkpoints" if with_checkpoints else ".pulled")
    if not stamp.exists() or time.time() - stamp.stat().st_mtime > READERS_REFRESH_SECONDS:
        copy.mkdir(parents=True, exist_ok=True)
        stamp.touch()
        try:
            Mirror(settings.mirror_url).pull(digest, copy, with_checkpoints)
        except OSError as error:
            logger.warning("mirror not read, an older copy of %s is shown: %s", digest, error)
    return copy


def _is_outage_of_s3(error: Exception) -> bool:
    """Whether this is a connection error of botocore, which need not be installed.

    Such errors are not OSErrors, so they are recognised by module and name.
    """
    return any(
        base.__module__.partition(".")[0] in ("botocore", "aiobotocore")
        and base.__name__ in ("ConnectionError", "HTTPClientError")
        for base in type(error).__mro__
    )


def _local(trial_dir: Path, last: int | None) -> Iterator[str]:
    """The paths of a local trial, except records after step `last` if given."""
    open_parts = {
        part.path
        for folder in ("expert_load", "steps")
        for part in parts(trial_dir / folder)
        if last is not None and part.last > last
    }
    for path in trial_dir.rglob("*"):
        name = path.relative_to(trial_dir).as_posix()
        is_whole = path.suffix not in (".tmp", ".damaged") and path not in open_parts
        if is_whole and path.is_file() and name != OWNER:
            yield name


def _entry(folder: str, path: Path) -> Entry | None:
    """The entry of a local file; None if there is none."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return Entry(folder, state.st_size, state.st_mtime_ns)


def _inside(trial_dir: Path, path: str) -> Path:
    """The local path of a mirrored file.  Raises: OSError: the path leads out of the trial"""
    local = trial_dir / path
    if not local.resolve().is_relative_to(trial_dir.resolve()):
        raise OSError(f"the mirror names {path!r}, which is outside of the trial's folder")
    return local


def _in_order(paths: Iterator[str] | Files) -> list[str]:
    """The paths, checkpoints last, so that no checkpoint is mirrored before its records."""
    return sorted(paths, key=lambda path: (path.startswith(CHECKPOINTS), path))


def _is_latest(name: str) -> bool:
    return name.endswith(f"/{LATEST}") and name.count("/") == 1
