"""Turns a data spec into two token streams on disk, made once and then found by their content.

The digest covers the tokens themselves, so equal digests mean equal training and validation data.
"""

from __future__ import annotations

import glob
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import DataSpec, FileTokenizer, Shards, Synthetic
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.documents import Document, TextSource, is_validation, read_documents
from evenload.workers.data.groups import Groups, group_documents, read_groups, write_groups
from evenload.workers.data.shards import TokenArray, open_tokens, token_type
from evenload.workers.data.synthetic import synthetic_documents
from evenload.workers.data.tokenizer import make_encoder

LAYOUT = 3  # version of the files on disk; a new number makes them again
TOKENIZER = "tokenizer.json"


class Corpus(NamedTuple):
    train: TokenArray
    validation: TokenArray
    vocab_size: int  # all token ids are smaller
    groups: Groups  # groups of the validation part
    digest: str  # 16 hex digits
    tokenizer: Path | None = None  # a tokenizer.json; None if the data has only token ids

    @property
    def bytes_per_token(self) -> float:
        """Mean over the validation part."""
        return self.groups.bytes_per_token


def prepare(spec: DataSpec, root: Path) -> Corpus:
    """The corpus of a spec, tokenised below `root` on first use.

    Two processes may prepare the same corpus at the same time: both write, and one rename wins.

    Raises:   SpecError: a source is missing or empty
    """
    match spec:
        case Shards():
            return _open_shards(spec)
        case Synthetic():
            return _cached(spec, root, content="", build=lambda: _synthetic_parts(spec))
        case _:
            documents = read_documents(spec)
            return _cached(
                spec,
                root,
                _content_digest(documents) + _tokenizer_digest(spec),
                build=lambda: _text_parts(spec, documents),
            )


def check_fits(spec: TrialSpec, corpus: Corpus) -> None:
    """Raises: SpecError: the corpus is too small for one batch, or has ids that the model lacks"""
    train, model = spec.train, spec.model
    needed = train.tokens_per_step + 2 * train.seq_len
    if len(corpus.train) < needed:
        raise SpecError(
            f"data: {len(corpus.train)} training tokens are too few for one batch of "
            f"train.batch_sequences={train.batch_sequences} x train.seq_len={train.seq_len} "
            f"({needed} needed); lower either or name a larger corpus"
        )
    if len(corpus.validation) <= train.seq_len:
        raise SpecError(
            f"data: {len(corpus.validation)} validation tokens are too few for one sequence of "
            f"train.seq_len={train.seq_len}; raise data.validation_share or lower train.seq_len"
        )
    if corpus.vocab_size > model.vocab_size:
        raise SpecError(
            f"model.vocab_size={model.vocab_size} is smaller than the {corpus.vocab_size} tokens "
            f"of the data; raise it to at least {corpus.vocab_size}"
        )


class _Parts(NamedTuple):
    train: TokenArray
    validation: TokenArray
    groups: Groups
    vocab_size: int
    tokenizer_json: str | None = None


def _text_parts(spec: TextSource, documents: list[Document]) -> _Parts:
    held_out = [document for document in documents if _held_out(spec, document)]
    train = [document.text for document in documents if not _held_out(spec, document)]
    if not held_out or not train:
        raise SpecError(
            f"data: {len(documents)} documents leave none for "
            f"{'training' if held_out else 'validation'} at "
            f"data.validation_share={spec.validation_share:g}; split the text into more files "
            "or change the share"
        )
    encoder = make_encoder(spec.tokenizer, train)
    validation = encoder.encode([document.text for document in held_out])
    groups = group_documents(
        names=[document.group for document in held_out],
        tokens_D=[len(tokens) for tokens in validation],
        bytes_D=[len(document.text.encode()) + 1 for document in held_out],
    )
    return _Parts(
        np.concatenate(encoder.encode(train)),
        np.concatenate(validation),
        groups,
        encoder.vocab_size,
        encoder.to_json(),
    )


def _held_out(spec: TextSource, document: Document) -> bool:
    return is_validation(document.key, spec.validation_share)


def _synthetic_parts(spec: Synthetic) -> _Parts:
    document_NT, domain_N = synthetic_documents(spec)
    held_out = max(1, round(len(document_NT) * spec.validation_share))
    length_D = [document_NT.shape[1]] * held_out
    groups = group_documents(
        names=[f"domain-{domain}" for domain in domain_N[:held_out]],
        tokens_D=length_D,
        bytes_D=length_D,
    )
    return _Parts(
        document_NT[held_out:].ravel(), document_NT[:held_out].ravel(), groups, spec.vocab_size
    )


def _content_digest(documents: list[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{document.key}\0{len(document.text)}\0{document.text}".encode())
    return digest.hexdigest()


def _tokenizer_digest(spec: TextSource) -> str:
    tokenizer = spec.tokenizer
    if isinstance(tokenizer, FileTokenizer) and tokenizer.path.is_file():
        return hashlib.sha256(tokenizer.path.read_bytes()).hexdigest()
    return ""


def _cached(spec: DataSpec, root: Path, content: str, build: Any) -> Corpus:
    identity = f"{LAYOUT}\0{spec.model_dump_json()}\0{content}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    directory = root / key
    if not (directory / "corpus.json").is_file():
        _write(directory, build())
    meta = json.loads((directory / "corpus.json").read_text())
    tokenizer, dtype = directory / TOKENIZER, token_type(meta["vocab_size"])
    return Corpus(
        open_tokens(directory / "train.bin", dtype),
        open_tokens(directory / "validation.bin", dtype),
        groups=read_groups(directory / "groups.npz"),
        tokenizer=tokenizer if tokenizer.is_file() else None,
        **meta,
    )


def _write(directory: Path, parts: _Parts) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=directory.parent))
    digest, dtype = hashlib.sha256(), np.dtype(token_type(parts.vocab_size)).newbyteorder("<")
    for name, tokens in (("train", parts.train), ("validation", parts.validation)):
        content = np.ascontiguousarray(tokens, dtype=dtype).tobytes()
        digest.update(content)
        (staging / f"{name}.bin").write_bytes(content)
    digest.update(parts.groups.content())
    write_groups(staging / "groups.npz", parts.groups)
    if parts.tokenizer_json is not None:
        (staging / TOKENIZER).write_text(parts.tokenizer_json, encoding="utf-8")
    meta = {"vocab_size": parts.vocab_size, "digest": digest.hexdigest()[:16]}
    (staging / "corpus.json").write_text(json.dumps(meta))
    try:
        staging.rename(directory)
    except OSError:
        if not (directory / "corpus.json").is_file():
            raise
        shutil.rmtree(staging)  # another process wrote the same content first


def _open_shards(spec: Shards) -> Corpus:
    train = _joined([tokens for _, tokens in _files("train_glob", spec.train_glob, spec.dtype)])
    files = _files("validation_glob", spec.validation_glob, spec.dtype)
    validation = _joined([tokens for _, tokens in files])
    groups = group_documents(
        names=[path.name for path, _ in files],
        tokens_D=[len(tokens) for _, tokens in files],
        bytes_D=[len(tokens) * spec.bytes_per_token for _, tokens in files],
    )
    edges = np.concatenate([_edges(train), _edges(validation)])
    digest = hashlib.sha256(f"{len(train)} {len(validation)}".encode() + edges.tobytes())
    digest.update(groups.content())
    return Corpus(train, validation, int(edges.max()) + 1, groups, digest.hexdigest()[:16])


def _edges(tokens: TokenArray) -> TokenArray:
    """The first and last 2**20 tokens, because reading large shards completely takes too long."""
    return np.concatenate([tokens[: 2**20], tokens[-(2**20) :]])


def _files(key: str, pattern: str, dtype: str) -> list[tuple[Path, TokenArray]]:
    paths = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    if not paths:
        raise SpecError(f"data.{key}={pattern!r} matches no file; check the path")
    return [(path, open_tokens(path, dtype)) for path in paths]


def _joined(parts: list[TokenArray]) -> TokenArray:
    """All parts in one array. A single file stays memory-mapped."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
