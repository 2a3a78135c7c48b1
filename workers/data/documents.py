"""Reads each kind of text source as a stream of documents with a key and a group.

A hash of its key assigns a document to training or validation, so the split does not depend on the
order, on other documents or on the machine.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, assert_never

import pyarrow.parquet as pq

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import require
from evenload.pipeline.spec.data import Files, HuggingFace, PythonStdlib


class Document(NamedTuple):
    key: str  # unique within the corpus and equal on every machine
    text: str
    group: str  # top directory of a whole file; label of a row, or its file without a label


TextSource = PythonStdlib | Files | HuggingFace


def read_documents(source: TextSource) -> list[Document]:
    """All documents, ordered by the hash of their key, so that every prefix is a fair sample.

    Raises:   SpecError: there is no text
    """
    documents = sorted(_documents(source), key=lambda document: _hash(document.key))
    if not any(document.text for document in documents):
        raise SpecError(f"data: {_described(source)} contains no text; name another source")
    return documents


def is_validation(key: str, share: float) -> bool:
    """True if the document belongs to the validation part, as for about `share` of all keys."""
    return int.from_bytes(_hash(key)[8:16], "big") / 2**64 < share


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _documents(source: TextSource) -> Iterator[Document]:
    match source:
        case PythonStdlib():
            return _python_stdlib()
        case Files():
            return _files(source)
        case HuggingFace():
            return _hugging_face(source)
        case _:
            assert_never(source)


def _described(source: TextSource) -> str:
    return source.glob if isinstance(source, Files) else source.kind


def _python_stdlib() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in root.rglob("*.py"):
        key = path.relative_to(root).as_posix()
        if "site-packages" not in key and "dist-packages" not in key:
            yield Document(key, _text(path), _top_directory(path, root))


def _files(source: Files) -> Iterator[Document]:
    paths = sorted(Path(name) for name in glob.glob(source.glob, recursive=True))
    files = [path for path in paths if path.is_file()]
    if not files:
        raise SpecError(f"data.glob={source.glob!r} matches no file; check the path")
    root = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        yield from _file_documents(path, root, source)


def _file_documents(path: Path, root: Path, source: Files) -> Iterator[Document]:
    match path.suffix:
        case ".txt" | ".md" | ".py":
            yield Document(path.as_posix(), _text(path), _top_directory(path, root))
        case ".jsonl":
            yield from _rows(path, root, _jsonl(path, source))
        case ".parquet":
            yield from _rows(path, root, _parquet(path, source))
        case suffix:
            raise SpecError(
                f"data.glob matches {path}: suffix {suffix!r} is not readable; "
                "use .txt, .md, .py, .jsonl or .parquet"
            )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _top_directory(path: Path, root: Path) -> str:
    """The first directory below `root`; "." for a file in `root` itself."""
    parents = path.relative_to(root).parts[:-1]
    return parents[0] if parents else "."


class _Row(NamedTuple):
    number: int
    text: str
    group: str | None


def _rows(path: Path, root: Path, rows: Iterator[_Row]) -> Iterator[Document]:
    file = path.relative_to(root).as_posix()
    for row in rows:
        yield Document(f"{path.as_posix()}:{row.number}", row.text, row.group or file)


def _columns(source: Files | HuggingFace) -> dict[str, str]:
    """The column that each key of the spec names."""
    named = {"column": source.column, "group_column": source.group_column}
    return {key: column for key, column in named.items() if column is not None}


def _jsonl(path: Path, source: Files) -> Iterator[_Row]:
    """Rows numbered from 1, like lines."""
    columns = _columns(source)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SpecError(f"{path}:{number}: not a JSON object ({error})") from None
            for key, column in columns.items():
                if not isinstance(row, dict) or column not in row:
                    raise SpecError(
                        f"{path}:{number}: not a JSON object with the key {column!r}; "
                        f"set data.{key} to a key that every line has"
                    )
            yield _row(number, row, source)


def _parquet(path: Path, source: Files) -> Iterator[_Row]:
    """Rows numbered from 0."""
    file, columns = pq.ParquetFile(path), _columns(source)
    for key, column in columns.items():
        if column not in file.schema_arrow.names:
            raise SpecError(
                f"{path}: no column {column!r}; set data.{key} to one of {file.schema_arrow.names}"
            )
    rows = (
        row
        for batch in file.iter_batches(columns=list(set(columns.values())))
        for row in batch.to_pylist()
    )
    return (_row(number, row, source) for number, row in enumerate(rows))


def _row(number: int, row: dict[str, Any], source: Files | HuggingFace) -> _Row:
    group = None if source.group_column is None else str(row[source.group_column])
    return _Row(number, str(row[source.column]), group)


def _hugging_face(source: HuggingFace) -> Iterator[Document]:
    require("datasets")
    import datasets

    stream = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
    for number, example in enumerate(stream.take(source.max_documents)):
        row = _row(number, example, source)
        key = f"{source.name}:{source.split}:{number}"
        yield Document(key, row.text, row.group or source.name)
