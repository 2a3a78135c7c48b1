"""Turns a data spec into two token streams on disk, made once and then found by their content.

The digest covers the tokens themselves, so equal digests mean equal training and validation data.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import DataSpec, FileTokenizer, Shards, Synthetic, matching_files
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.documents import Document, TextSource, read_documents, source_files
from evenload.workers.data.duplicates import Origin, split
from evenload.workers.data.file_digests import KnownFiles, file_digest
from evenload.workers.data.groups import Groups, group_documents, read_groups, write_groups
from evenload.workers.data.shards import JoinedTokens, TokenArray, Tokens, open_tokens, token_type
from evenload.workers.data.synthetic import synthetic_documents
from evenload.workers.data.tokenizer import make_encoder

LAYOUT = 4  # version of the files on disk; a new number makes them again
TOKENIZER = "tokenizer.json"


class Corpus(NamedTuple):
    train: Tokens
    validation: Tokens
    vocab_size: int  # all token ids are smaller
    groups: Groups  # groups of the validation part
    digest: str  # 16 hex digits
    tokenizer: Path | None = None  # a tokenizer.json; None if the data has only token ids
    origin: Origin | None = None  # None: token ids, whose documents are not known

    @property
    def bytes_per_token(self) -> float:
        """Mean over the validation part."""
        return self.groups.bytes_per_token


def prepare_unchanged(spec: DataSpec, root: Path, digest: str | None) -> Corpus:
    """As `prepare`.  Raises: SpecError: also if the corpus has changed since it had this digest"""
    corpus = prepare(spec, root)
    if digest not in (None, corpus.digest):
        raise SpecError(
            f"data: it changed while it was in use (digest {digest}, now {corpus.digest}); put the "
            "sources back, or submit the sweep again to train on the new data"
        )
    return corpus


def prepare(spec: DataSpec, root: Path) -> Corpus:
    """The corpus of a spec, tokenised below `root` on first use.

    Sources are read again only if the size, time of change or inode of a file is another one.
    Two processes may prepare the same corpus at the same time: both write, and one rename wins.

    Raises:   SpecError: a source is missing or empty
    """
    match spec:
        case Shards():
            return _open_shards(spec, root)
        case Synthetic():
            return _cached(spec, root, content="", build=lambda: _synthetic_parts(spec))[0]
        case _:
            return _text_corpus(spec, root)


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


def _text_corpus(spec: TextSource, root: Path) -> Corpus:
    """Opens without reading the sources if their files have not changed since the last time."""
    sources = source_files(spec)
    known = KnownFiles(root / "sources", f"{LAYOUT}\0{spec.model_dump_json()}")
    if sources is not None and (name := known.recall(sources)) and is_whole(root / name):
        return _open(root / name)
    documents = read_documents(spec)
    content = _content_digest(documents) + _tokenizer_digest(spec)
    corpus, name = _cached(spec, root, content, build=lambda: _text_parts(spec, documents))
    if sources is not None:
        known.remember(sources, name)
    return corpus


class _Parts(NamedTuple):
    train: TokenArray
    validation: TokenArray
    groups: Groups
    vocab_size: int
    tokenizer_json: str | None = None
    origin: Origin | None = None


def _text_parts(spec: TextSource, documents: list[Document]) -> _Parts:
    train, held_out, origin = split(documents, spec.validation_share)
    if not held_out or not train:
        raise SpecError(
            f"data: {origin.documents} different documents, {origin.similar} of them near "
            "duplicates that stay together, leave none for "
            f"{'training' if held_out else 'validation'} at "
            f"data.validation_share={spec.validation_share:g}; split the text into more files "
            "or change the share"
        )
    encoder = make_encoder(spec.tokenizer, [document.text for document in train])
    validation = encoder.encode([document.text for document in held_out])
    groups = group_documents(
        names=[document.group for document in held_out],
        tokens_D=[len(tokens) for tokens in validation],
        bytes_D=[len(document.text.encode()) + 1 for document in held_out],
    )
    return _Parts(
        np.concatenate(encoder.encode([document.text for document in train])),
        np.concatenate(validation),
        groups,
        encoder.vocab_size,
        encoder.to_json(),
        origin,
    )


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
    """Depends on the texts and their groups, not on their paths and order."""
    each = (f"{document.group}\0{document.text}".encode() for document in documents)
    digests = sorted(hashlib.sha256(content).digest() for content in each)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _tokenizer_digest(spec: TextSource) -> str:
    tokenizer = spec.tokenizer
    if isinstance(tokenizer, FileTokenizer) and tokenizer.path.is_file():
        return hashlib.sha256(tokenizer.path.read_bytes()).hexdigest()
    return ""


def _cached(
    spec: DataSpec, root: Path, content: str, build: Callable[[], _Parts]
) -> tuple[Corpus, str]:
    """The corpus and the name of its folder. A damaged folder is made again."""
    identity = f"{LAYOUT}\0{spec.model_dump_json()}\0{content}"
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    if not is_whole(root / name):
        shutil.rmtree(root / name, ignore_errors=True)
        _write(root / name, build())
    return _open(root / name), name


def is_whole(directory: Path) -> bool:
    """Whether the streams of a corpus have the sizes and contents that they were written with.

    A process reads each file once for this, and again if it changed.
    """
    facts = directory / "corpus.json"
    if not facts.is_file():
        return False
    digests = json.loads(facts.read_text())["streams"]
    return all(file_digest(directory / name) == digest for name, digest in digests.items())


def _open(directory: Path) -> Corpus:
    facts = json.loads((directory / "corpus.json").read_text())
    tokenizer, dtype = directory / TOKENIZER, token_type(facts["vocab_size"])
    return Corpus(
        open_tokens(directory / "train.bin", dtype),
        open_tokens(directory / "validation.bin", dtype),
        vocab_size=facts["vocab_size"],
        groups=read_groups(directory / "groups.npz"),
        digest=facts["digest"],
        tokenizer=tokenizer if tokenizer.is_file() else None,
        origin=Origin(**facts["origin"]) if facts["origin"] else None,
    )


def _write(directory: Path, parts: _Parts) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=directory.parent))
    dtype = np.dtype(token_type(parts.vocab_size)).newbyteorder("<")
    digest, streams = hashlib.sha256(), {}
    for name, tokens in (("train.bin", parts.train), ("validation.bin", parts.validation)):
        content = np.ascontiguousarray(tokens, dtype=dtype).tobytes()
        digest.update(content)
        (staging / name).write_bytes(content)
        streams[name] = hashlib.sha256(content).hexdigest()
    digest.update(parts.groups.content())
    write_groups(staging / "groups.npz", parts.groups)
    if parts.tokenizer_json is not None:
        (staging / TOKENIZER).write_text(parts.tokenizer_json, encoding="utf-8")
    facts = {
        "vocab_size": parts.vocab_size,
        "digest": digest.hexdigest()[:16],
        "streams": streams,
        "origin": parts.origin and parts.origin._asdict(),
    }
    (staging / "corpus.json").write_text(json.dumps(facts))
    try:
        staging.rename(directory)
    except OSError:
        if not (directory / "corpus.json").is_file():
            raise
        shutil.rmtree(staging)  # another process wrote the same content first


def _open_shards(spec: Shards, root: Path) -> Corpus:
    train_files = _files("train_glob", spec.train_glob, spec.dtype)
    files = _files("validation_glob", spec.validation_glob, spec.dtype)
    groups = group_documents(
        names=[path.name for path, _ in files],
        tokens_D=[len(tokens) for _, tokens in files],
        bytes_D=[len(tokens) * spec.bytes_per_token for _, tokens in files],
    )
    # The digests of the files, not of the joined stream: a large file is read once for good.
    known = [_shard_facts(*file, root) for file in (*train_files, *files)]
    digest = hashlib.sha256(f"{len(train_files)} {spec.dtype}".encode())
    digest.update("".join(content for content, _ in known).encode())
    digest.update(groups.content())
    train, validation = (_joined([tokens for _, tokens in part]) for part in (train_files, files))
    largest = max(largest for _, largest in known)
    return Corpus(train, validation, largest + 1, groups, digest.hexdigest()[:16])


def _shard_facts(path: Path, tokens: TokenArray, root: Path) -> tuple[str, int]:
    """The digest of a file and its largest token. They are kept until the file changes."""
    known = KnownFiles(root / "sources", f"{tokens.dtype}\0{path}")
    found = known.recall([str(path)])
    if found is None:
        found = f"{file_digest(path)} {tokens.max()}"
        known.remember([str(path)], found)
    digest, largest = found.split()
    return digest, int(largest)


def file_parts(spec: DataSpec) -> dict[str, str]:
    """The start of the digest of each file that a corpus is made of; empty if there are none."""
    match spec:
        case Shards():
            globs = {"train_glob": spec.train_glob, "validation_glob": spec.validation_glob}
            paths = [path for key, glob in globs.items() for path in matching_files(key, glob)]
        case Synthetic():
            paths = []
        case _:
            paths = [Path(path) for path in source_files(spec) or []]
    return {str(path): (file_digest(path) or "")[:12] for path in paths}


def _files(key: str, pattern: str, dtype: str) -> list[tuple[Path, TokenArray]]:
    return [(path, open_tokens(path, dtype)) for path in matching_files(key, pattern)]


def _joined(parts: list[TokenArray]) -> Tokens:
    return parts[0] if len(parts) == 1 else JoinedTokens(parts)
