"""Where text comes from: each kind of corpus as a stream of documents with a key and a group.

A document goes to training or validation by a hash of its key, so the split does not depend on
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
from typing import NamedTuple, assert_never

import pyarrow.parquet as pq

from pipeline.data_spec import Files, HuggingFace, PythonStdlib
from pipeline.errors import SpecError


class Document(NamedTuple):
    key: str  # unique within the corpus, the same on every machine
    text: str
    group: str  # top directory of a file that is a document; the file of a row that is one


TextSource = PythonStdlib | Files | HuggingFace


def read_documents(source: TextSource) -> list[Document]:
    """All documents, ordered by the hash of their key: any prefix is a fair sample.

    Raises:   SpecError: nothing to read
    """
    documents = sorted(_documents(source), key=lambda document: _hash(document.key))
    if not any(document.text for document in documents):
        raise SpecError(f"data: {_described(source)} holds no text; name another source")
    return documents


def is_validation(key: str, share: float) -> bool:
    """Whether the document belongs to the validation part; true for about `share` of all keys."""
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
        yield from _file_documents(path, root, source.column)


def _file_documents(path: Path, root: Path, column: str) -> Iterator[Document]:
    match path.suffix:
        case ".txt" | ".md" | ".py":
            yield Document(path.as_posix(), _text(path), _top_directory(path, root))
        case ".jsonl":
            yield from _rows(path, root, _jsonl(path, column))
        case ".parquet":
            yield from _rows(path, root, _parquet(path, column))
        case suffix:
            raise SpecError(
                f"data.glob matches {path}: suffix {suffix!r} is not readable; "
                "use .txt, .md, .py, .jsonl or .parquet"
            )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _top_directory(path: Path, root: Path) -> str:
    """ "." for a file in `root` itself."""
    parents = path.relative_to(root).parts[:-1]
    return parents[0] if parents else "."


def _rows(path: Path, root: Path, rows: Iterator[tuple[int, str]]) -> Iterator[Document]:
    group = path.relative_to(root).as_posix()
    return (Document(f"{path.as_posix()}:{number}", text, group) for number, text in rows)


def _jsonl(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and texts."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                yield number, str(json.loads(line)[column])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise SpecError(
                    f"{path}:{number}: no JSON object with the key {column!r} ({error!r}); "
                    "set data.column to the key that holds the text"
                ) from None


def _parquet(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """Row numbers from 0, and texts."""
    file = pq.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise SpecError(
            f"{path}: no column {column!r}; set data.column to one of {file.schema_arrow.names}"
        )
    row = 0
    for batch in file.iter_batches(columns=[column]):
        for text in batch.column(0).to_pylist():
            yield row, str(text)
            row += 1


def _hugging_face(source: HuggingFace) -> Iterator[Document]:
    try:
        import datasets
    except ImportError:
        raise SpecError(
            "data.kind='huggingface' needs the package datasets; run: pip install datasets"
        ) from None
    stream = datasets.load_dataset(source.name, source.config, split=source.split, streaming=True)
    for row, example in enumerate(stream.take(source.max_documents)):
        key = f"{source.name}:{source.split}:{row}"
        yield Document(key, str(example[source.column]), source.name)
