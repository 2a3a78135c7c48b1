"""Restricts what specs of other users may read to one folder, and lets them run no code."""

import glob
from collections.abc import Iterator
from itertools import chain, takewhile
from pathlib import Path

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import (
    DataSpec,
    Files,
    FileTokenizer,
    HuggingFace,
    Shards,
    TextData,
    matches,
)
from evenload.pipeline.spec.other_models import HuggingFaceModel, PythonModel
from evenload.pipeline.spec.trial import Model


def check_paths(data: DataSpec, root: Path | None, model: Model | None = None) -> None:
    """Checks that all paths of the spec are below `root`, also if they contain `..` or links.

    Args:     root: None: no restriction, for users who can read all files anyway
    Raises:   SpecError: a path leads out of `root`, or the model is a function to be called
    """
    if root is None:
        return
    root = root.expanduser().resolve()
    if isinstance(model, PythonModel):
        raise SpecError(
            f"model.factory={model.factory!r}: no code of users runs where EVENLOAD_DATA_ROOT "
            "is set; unset it, or write the model as a model.kind huggingface folder"
        )
    patterns = list(_patterns(data))
    if isinstance(model, HuggingFaceModel):
        patterns.append(("model.path", glob.escape(str(model.path))))
    for key, pattern in patterns:
        fixed = _fixed_part(pattern)
        # The fixed part and the pattern itself are judged before anything is searched.
        stays = ".." not in Path(pattern).parts[len(fixed.parts) :]
        if not stays or not all(
            path.resolve().is_relative_to(root)
            for path in chain((fixed, Path(pattern)), map(Path, matches(pattern)))
        ):
            raise SpecError(
                f"{key}={pattern!r} leads out of {root}, the only folder that specs may read; "
                "put the files there, or change EVENLOAD_DATA_ROOT"
            )


def _patterns(data: DataSpec) -> Iterator[tuple[str, str]]:
    if isinstance(data, Files):
        yield "data.glob", data.glob
    if isinstance(data, Shards):
        yield "data.train_glob", data.train_glob
        yield "data.validation_glob", data.validation_glob
    if isinstance(data, HuggingFace) and Path(data.name).exists():
        yield "data.name", glob.escape(data.name)  # the library accepts folders as names, too
    if isinstance(data, TextData) and isinstance(data.tokenizer, FileTokenizer):
        yield "data.tokenizer.path", glob.escape(str(data.tokenizer.path))


def _fixed_part(pattern: str) -> Path:
    """The path before the first wildcard, so that patterns without a match are checked, too."""
    return Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
