"""Where the specs of others may read: only below one folder."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import (
    DataSpec,
    Files,
    FileTokenizer,
    HuggingFace,
    Shards,
    TextData,
)


def check_paths(data: DataSpec, root: Path | None) -> None:
    """Raises: SpecError: a path of the spec leads out of `root`, by `..` or by a link

    None: no root, as on a machine whose user could read the file anyway.
    """
    if root is None:
        return
    root = root.expanduser().resolve()
    for key, pattern in _patterns(data):
        for path in (_fixed_part(pattern), *map(Path, glob.glob(pattern, recursive=True))):
            if not path.resolve().is_relative_to(root):
                raise SpecError(
                    f"{key}={pattern!r} leads out of {root}, the only place that specs may read "
                    "here; put the files there, or change EVENLOAD_DATA_ROOT"
                )


def _patterns(data: DataSpec) -> Iterator[tuple[str, str]]:
    if isinstance(data, Files):
        yield "data.glob", data.glob
    if isinstance(data, Shards):
        yield "data.train_glob", data.train_glob
        yield "data.validation_glob", data.validation_glob
    if isinstance(data, HuggingFace) and Path(data.name).exists():
        yield "data.name", glob.escape(data.name)  # the library takes folders as well as names
    if isinstance(data, TextData) and isinstance(data.tokenizer, FileTokenizer):
        yield "data.tokenizer.path", glob.escape(str(data.tokenizer.path))


def _fixed_part(pattern: str) -> Path:
    """What stands before the first wildcard, so that a pattern without a match is judged too."""
    fixed: list[str] = []
    for part in Path(pattern).parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
