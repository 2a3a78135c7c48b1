"""What a user may ask for as data: where text comes from and how it becomes tokens."""

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.spec_file import Frozen, NonNegativeInt, PositiveFloat, PositiveInt


def _pattern(value: str) -> str:
    """A pattern with `~` or `$HOME` at its start replaced by the home of its user."""
    if "\0" in value:
        raise ValueError("has a zero byte, which no path has; remove it")
    return os.path.expanduser(re.sub(r"^\$(HOME|\{HOME\})(?=/)", "~", value))


Pattern = Annotated[str, Field(min_length=1), AfterValidator(_pattern)]


def matches(pattern: str) -> Iterator[str]:
    """The paths that match. A path that exists is no pattern, whatever brackets it has."""
    if os.path.exists(pattern):
        return iter((pattern,))
    return glob.iglob(pattern, recursive=True)


def matching_files(key: str, pattern: str) -> list[Path]:
    """The files that match, sorted by name.  Raises: SpecError: there is none"""
    found = [Path(name) for name in matches(pattern)]
    if files := sorted(path for path in found if path.is_file()):
        return files
    if found:
        raise SpecError(
            f"data.{key}={pattern!r} matches folders alone; add the files in them, as in "
            f"{pattern.rstrip('/')}/**/*.txt"
        )
    base = "" if os.path.isabs(pattern) else f" below {os.getcwd()}, where evenload runs"
    hint = "; [ begins a set of characters, so write [[] for a bracket" if "[" in pattern else ""
    raise SpecError(f"data.{key}={pattern!r} matches no file{base}; check the path{hint}")


class BytesTokenizer(Frozen):
    """Every byte is a token."""

    kind: Literal["bytes"] = "bytes"


class BpeTokenizer(Frozen):
    """Byte-level BPE trained on the training part of the corpus itself."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: Annotated[int, Field(ge=257, le=2**20)] = 8192
    """Number of different tokens."""


class FileTokenizer(Frozen):
    """A `tokenizer.json` of the Hugging Face tokenizers library."""

    kind: Literal["file"] = "file"
    path: Path
    """Path of the file."""
    end: str | None = None
    """Token that ends a document; null: the first of the usual ones that the file has."""


Tokenizer = Annotated[BytesTokenizer | BpeTokenizer | FileTokenizer, Field(discriminator="kind")]


class TextData(Frozen):
    """What all corpora of text share."""

    tokenizer: Tokenizer = BytesTokenizer()
    """How text becomes tokens."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the documents held out for evaluation, chosen by content; copies stay together."""


class PythonStdlib(TextData):
    """Source text of the running Python's standard library: real English and code, no download."""

    kind: Literal["python_stdlib"] = "python_stdlib"


class Files(TextData):
    """Files that match a glob: .txt, .md and .py whole, .jsonl and .parquet by `column`."""

    kind: Literal["files"] = "files"
    glob: Pattern
    """Pattern of paths, relative to where evenload runs; ** matches any number of folders."""
    column: str = "text"
    """Column of .jsonl and .parquet files that holds the text."""
    group_column: str | None = None
    """Column that names the group of a row, e.g. its domain; null: each file is a group."""


class HuggingFace(TextData):
    """A data set of the Hugging Face hub, streamed until `max_documents` are read."""

    kind: Literal["huggingface"] = "huggingface"
    name: str
    """Name of the data set on the hub."""
    split: str = "train"
    """Split to read; documents for evaluation are taken out of it."""
    config: str | None = None
    """Configuration of the data set; null: its default one."""
    column: str = "text"
    """Column that holds the text."""
    group_column: str | None = None
    """Column that names the group of a row, e.g. its domain; null: all rows are one group."""
    max_documents: PositiveInt = 100_000
    """Documents to read at most."""


class Shards(Frozen):
    """Pre-tokenised files of little-endian uint16 or uint32, memory-mapped."""

    kind: Literal["shards"] = "shards"
    train_glob: Pattern
    """Pattern of the paths of training files."""
    validation_glob: Pattern
    """Pattern of the paths of validation files."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    """Type of a token in the files."""
    bytes_per_token: PositiveFloat = 1.0
    """Mean bytes of text per token; converts the loss to bits per byte."""


class Synthetic(Frozen):
    """Tokens of a labelled mixture of domains; each domain is a Markov chain."""

    kind: Literal["synthetic"] = "synthetic"
    num_domains: PositiveInt = 4
    """Number of domains."""
    vocab_size: Annotated[int, Field(ge=2, le=2**20)] = 256
    """Number of different tokens."""
    num_tokens: PositiveInt = 2_000_000
    """Tokens to generate."""
    seed: NonNegativeInt = 0
    """Seed of the chains and of the tokens."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the documents that is held out for evaluation."""


DataSpec = Annotated[
    PythonStdlib | Files | HuggingFace | Shards | Synthetic, Field(discriminator="kind")
]
