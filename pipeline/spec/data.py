"""What a user may ask for as data: where text comes from and how it becomes tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from evenload.pipeline.spec.spec_file import Frozen, NonNegativeInt, PositiveInt


class BytesTokenizer(Frozen):
    kind: Literal["bytes"] = "bytes"


class BpeTokenizer(Frozen):
    """Byte-level BPE trained on the training part of the corpus itself."""

    kind: Literal["bpe"] = "bpe"
    vocab_size: Annotated[int, Field(ge=257, le=65535)] = 8192


class FileTokenizer(Frozen):
    """A `tokenizer.json` of the Hugging Face tokenizers library."""

    kind: Literal["file"] = "file"
    path: Path


Tokenizer = Annotated[BytesTokenizer | BpeTokenizer | FileTokenizer, Field(discriminator="kind")]


class TextData(Frozen):
    """What all corpora of text share."""

    tokenizer: Tokenizer = BytesTokenizer()
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05


class PythonStdlib(TextData):
    """Source text of the running Python's standard library: real English and code, no download."""

    kind: Literal["python_stdlib"] = "python_stdlib"


class Files(TextData):
    """Files that match a glob: .txt, .md and .py whole, .jsonl and .parquet by `column`."""

    kind: Literal["files"] = "files"
    glob: str
    column: str = "text"
    group_column: str | None = Field(
        default=None, description="names the group of a row, e.g. its domain; None is its file"
    )


class HuggingFace(TextData):
    """A data set of the Hugging Face hub, streamed until `max_documents`."""

    kind: Literal["huggingface"] = "huggingface"
    name: str
    split: str = "train"
    config: str | None = None
    column: str = "text"
    group_column: str | None = Field(
        default=None, description="names the group of a row, e.g. its domain; None is one group"
    )
    max_documents: PositiveInt = 100_000


class Shards(Frozen):
    """Pre-tokenised files of little-endian uint16 or uint32, memory-mapped."""

    kind: Literal["shards"] = "shards"
    train_glob: str
    validation_glob: str
    dtype: Literal["uint16", "uint32"] = "uint16"
    bytes_per_token: PositiveFloat = Field(
        default=1.0, description="mean bytes of text a token stands for; scales bits per byte"
    )


class Synthetic(Frozen):
    """Tokens of a labelled mixture of domains, each a Markov chain of its own."""

    kind: Literal["synthetic"] = "synthetic"
    num_domains: PositiveInt = 4
    vocab_size: Annotated[int, Field(ge=2, le=65535)] = 256
    num_tokens: PositiveInt = 2_000_000
    seed: NonNegativeInt = 0
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05


DataSpec = Annotated[
    PythonStdlib | Files | HuggingFace | Shards | Synthetic, Field(discriminator="kind")
]
