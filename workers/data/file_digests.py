"""Digests of files, and what was found in files that have not changed since."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from evenload.pipeline.records.parquet_files import replace


class KnownFiles(NamedTuple):
    """What a reader found in some files, kept on disk until one of them changes.

    A file counts as unchanged if its size, its time of change and its inode are.
    """

    folder: Path
    question: str  # everything except the files that determines the answer

    def recall(self, paths: Sequence[str]) -> str | None:
        """The answer for exactly these files; None if it has to be found."""
        try:
            kept = json.loads(self._file().read_text())
            return str(kept["answer"]) if kept["files"] == _states(paths) else None
        except (OSError, ValueError, KeyError, TypeError):  # nothing kept, or not as we keep it
            return None

    def remember(self, paths: Sequence[str], answer: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"answer": answer, "files": _states(paths)})
        replace(self._file(), content.encode())

    def _file(self) -> Path:
        return self.folder / f"{hashlib.sha256(self.question.encode()).hexdigest()[:16]}.json"


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file in hex; None if there is no such file. Read once unless it changes."""
    return _digest_of(path, *_state(str(path))) if path.is_file() else None


@lru_cache(maxsize=64)
def _digest_of(path: Path, *state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _states(paths: Sequence[str]) -> list[list[object]]:
    return [[path, *_state(path)] for path in paths]


def _state(path: str) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns, found.st_ino
