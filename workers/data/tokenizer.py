"""Converts text to token ids. Id 0 ends a document with the bytes and bpe tokenisers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, assert_never

import numpy as np

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import BpeTokenizer, BytesTokenizer, FileTokenizer, Tokenizer
from evenload.workers.data.shards import TokenArray, token_type

if TYPE_CHECKING:
    import tokenizers

END_OF_DOCUMENT = "<|end|>"  # under bpe
END_OF_BYTES = "\0"
# Tokens that end a text in the tokenizers of well-known models; the first that there is.
ENDS = (
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    END_OF_DOCUMENT,
    END_OF_BYTES,
)


class Encoder(Protocol):
    vocab_size: int

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        """The tokens of each text, followed by an end-of-document token."""

    def to_json(self) -> str:
        """The same tokenizer as the content of a `tokenizer.json`."""


class BytesEncoder:
    """UTF-8 bytes; a zero byte, which text does not contain, ends a document."""

    vocab_size = 256

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        return [
            np.frombuffer(text.encode() + b"\0", dtype=np.uint8).astype(np.uint16) for text in texts
        ]

    def to_json(self) -> str:
        """A byte-level BPE without merges, whose ids are the bytes."""
        import tokenizers

        end = tokenizers.AddedToken(END_OF_BYTES, special=True, normalized=False)
        sign_of = _byte_signs() | {0: END_OF_BYTES}
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE(vocab={sign: byte for byte, sign in sign_of.items()}, merges=[])
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
            add_prefix_space=False, use_regex=False
        )
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        tokenizer.add_special_tokens([end])
        return str(tokenizer.to_str())


def _byte_signs() -> dict[int, str]:
    """The printable sign that byte-level tokenizers write for each byte (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + place) for place, byte in enumerate(others)
    }


class LibraryEncoder:
    """Adapts a tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, end_id: int) -> None:
        self._tokenizer = tokenizer
        self.end_id = end_id
        self.vocab_size = max(tokenizer.get_vocab().values()) + 1  # ids may have gaps
        self._type = token_type(self.vocab_size)

    def encode(self, texts: Sequence[str]) -> list[TokenArray]:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array([*encoding.ids, self.end_id], dtype=self._type) for encoding in encodings]

    def to_json(self) -> str:
        return str(self._tokenizer.to_str())


def make_encoder(spec: Tokenizer, training_texts: Iterable[str]) -> Encoder:
    """The encoder of a spec. Only `bpe` reads the training texts.

    Raises:   SpecError: the tokenizer file is missing or unreadable
    """
    match spec:
        case BytesTokenizer():
            return BytesEncoder()
        case BpeTokenizer():
            return _trained_bpe(spec.vocab_size, training_texts)
        case FileTokenizer():
            return read_encoder(spec.path, spec.end)
        case _:
            assert_never(spec)


def _trained_bpe(vocab_size: int, texts: Iterable[str]) -> LibraryEncoder:
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return LibraryEncoder(tokenizer, end_id=0)


def read_encoder(path: Path, end: str | None = None) -> LibraryEncoder:
    """The encoder of a `tokenizer.json`, without the file's own truncation, padding and dropout.

    Args:     end: the token that ends a document; None: the first of `ENDS` that there is
    Raises:   SpecError: missing or unreadable, or no such token
    """
    import tokenizers

    if not path.is_file():
        raise SpecError(f"data.tokenizer.path={str(path)!r}: no such file; give a tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception for a bad file
        raise SpecError(f"data.tokenizer.path={str(path)!r}: not a tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
    vocabulary = tokenizer.get_vocab()
    ends = [name for name in ([end] if end else ENDS) if name in vocabulary]
    if not ends:
        raise SpecError(
            f"data.tokenizer.path={str(path)!r} has no token {end or ' or '.join(ENDS)!r} to end a "
            "document with; set data.tokenizer.end to one that it has"
        )
    return LibraryEncoder(tokenizer, end_id=vocabulary[ends[0]])
