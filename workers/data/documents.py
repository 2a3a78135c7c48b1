"""Reads each kind of text source as documents with a group."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, assert_never, cast

import pyarrow as pa
import pyarrow.parquet as pq

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import require
from evenload.pipeline.spec import data as specs


class Document(NamedTuple):
    text: str
    group: str  # top directory of a whole file; label of a row, or its file without a label


TextSource = specs.PythonStdlib | specs.Files | specs.HuggingFace


def read_documents(source: TextSource) -> list[Document]:
    """All documents. A row without text is an empty one.

    Raises:   SpecError: there is no text; a file cannot be read, with its line where it has lines
    """
    documents = list(_documents(source))
    if not any(document.text for document in documents):
        raise SpecError(f"data: {_described(source)} contains no text; name another source")
    return documents


def source_files(source: TextSource) -> list[str] | None:
    """The files that determine the documents and their tokens; None if a hub has them."""
    match source:
        case specs.PythonStdlib():
            files = _stdlib_files()
        case specs.Files():
            files = [str(path) for path in specs.matching_files("glob", source.glob)]
        case specs.HuggingFace():
            return None
        case _:
            assert_never(source)
    tokenizer = source.tokenizer
    return [*files, *([str(tokenizer.path)] if isinstance(tokenizer, specs.FileTokenizer) else [])]


def _documents(source: TextSource) -> Iterator[Document]:
    match source:
        case specs.PythonStdlib():
            return _python_stdlib()
        case specs.Files():
            return _files(source)
        case specs.HuggingFace():
            return _hugging_face(source)
        case _:
            assert_never(source)


def _described(source: TextSource) -> str:
    return source.glob if isinstance(source, specs.Files) else source.kind


def _stdlib_root() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _stdlib_files() -> list[str]:
    found: list[str] = []  # objects of paths would take most of the time
    for folder, folders, names in os.walk(_stdlib_root()):
        # Not entered, because they may hold ten times as many files.
        folders[:] = [name for name in folders if name not in ("site-packages", "dist-packages")]
        found += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def _python_stdlib() -> Iterator[Document]:
    for path in map(Path, _stdlib_files()):
        yield Document(_text(path), _top_directory(path, _stdlib_root()))


def _files(source: specs.Files) -> Iterator[Document]:
    files = specs.matching_files("glob", source.glob)
    root = Path(os.path.commonpath([path.parent for path in files]))
    for path in files:
        try:
            yield from _file_documents(path, root, source)
        except OSError as error:
            raise SpecError(
                f"{path}: {error.strerror}; make it readable, or leave it out of data.glob"
            ) from None


def _file_documents(path: Path, root: Path, source: specs.Files) -> Iterator[Document]:
    match path.suffix:
        case ".txt" | ".md" | ".py":
            yield Document(_text(path), _top_directory(path, root))
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
    """The text of a file. What is no UTF-8 becomes U+FFFD, as in files of other encodings."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _top_directory(path: Path, root: Path) -> str:
    """The first directory below `root`; "." for a file in `root` itself."""
    parents = path.relative_to(root).parts[:-1]
    return parents[0] if parents else "."


def _rows(path: Path, root: Path, rows: Iterator[Document]) -> Iterator[Document]:
    """A row without a group belongs to that of its file."""
    file = path.relative_to(root).as_posix()
    return (Document(row.text, row.group or file) for row in rows)


def _columns(source: specs.Files | specs.HuggingFace) -> dict[str, str]:
    """The column that each key of the spec names."""
    named = {"column": source.column, "group_column": source.group_column}
    return {key: column for key, column in named.items() if column is not None}


def _jsonl(path: Path, source: specs.Files) -> Iterator[Document]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                place = f"{path}:{number}"
                yield _row(_json_object(line, place, source), place, source)


def _json_object(line: bytes, place: str, source: specs.Files) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, nested too deeply
        raise SpecError(f"{place}: not a JSON object ({error}); mend or remove the line") from None
    for key, column in _columns(source).items():
        if not isinstance(row, dict) or column not in row:
            raise SpecError(
                f"{place}: not a JSON object with the key {column!r}; "
                f"set data.{key} to a key that every line has"
            )
    return cast("dict[str, Any]", row)


def _parquet(path: Path, source: specs.Files) -> Iterator[Document]:
    columns = _columns(source)
    try:
        file = pq.ParquetFile(path)
        for key, column in columns.items():
            if column not in file.schema_arrow.names:
                names = file.schema_arrow.names
                raise SpecError(f"{path}: no column {column!r}; set data.{key} to one of {names}")
        number = 0
        for batch in file.iter_batches(columns=list(set(columns.values()))):
            for row in batch.to_pylist():
                number += 1
                yield _row(row, f"{path}: row {number}", source)
    except (pa.ArrowException, OSError) as error:
        raise SpecError(f"{path}: not a whole parquet file ({error}); write it again") from None


def _row(row: dict[str, Any], place: str, source: specs.Files | specs.HuggingFace) -> Document:
    """The document of a row; its group is empty where the row names none.

    Raises:   SpecError: the text is neither text nor null
    """
    text = row[source.column]
    if isinstance(text, str):  # JSON may hold half of a surrogate pair
        text = text.encode(errors="replace")
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if text is not None and not isinstance(text, str):
        raise SpecError(
            f"{place}: {source.column!r} holds {type(text).__name__}, not text; "
            "set data.column to a key with text"
        )
    group = None if source.group_column is None else row[source.group_column]
    if isinstance(group, bytes | list | dict):
        raise SpecError(
            f"{place}: {source.group_column!r} holds {type(group).__name__}, which is no name of "
            "a group; set data.group_column to a key with text or numbers"
        )
    return Document(text or "", "" if group is None else str(group))


def _hugging_face(source: specs.HuggingFace) -> Iterator[Document]:
    require("datasets")
    import datasets

    stream = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
    for number, example in enumerate(stream.take(source.max_documents)):
        row = _row(example, f"{source.name}: row {number}", source)
        yield Document(row.text, row.group or source.name)
