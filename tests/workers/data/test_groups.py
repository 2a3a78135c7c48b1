from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import BpeTokenizer, Files, PythonStdlib, Shards, Synthetic
from evenload.workers.data.corpus import Corpus, prepare
from evenload.workers.data.groups import Group, group_documents
from evenload.workers.data.synthetic import DOCUMENT_TOKENS, synthetic_documents


def text_of(corpus: Corpus, name: str) -> str:
    """The whole validation text of a group, with a zero byte after each document."""
    (group,) = (group for group in corpus.groups.largest(99, 1) if group.name == name)
    return bytes(whole(corpus, group).astype(np.uint8)).decode()


def whole(corpus: Corpus, group: Group) -> NDArray[np.int64]:
    """All tokens of a group, as one window."""
    tokens = int(corpus.groups.tokens_D[corpus.groups.group_D == group.place].sum())
    return corpus.groups.windows(corpus.validation, group, tokens - 1, tokens)[0]


def names(corpus: Corpus) -> list[str]:
    return [group.name for group in corpus.groups.largest(99, 1)]


def test_a_file_belongs_to_its_top_directory(tmp_path: Path) -> None:
    for folder, word in (("a/deep", "apple "), ("b", "berry "), (".", "cherry ")):
        (tmp_path / "text" / folder).mkdir(parents=True, exist_ok=True)
        for number in range(30):
            (tmp_path / "text" / folder / f"{number}.txt").write_text(word * (number + 1))
    corpus = prepare(
        Files(glob=str(tmp_path / "text/**/*.txt"), validation_share=0.4), tmp_path / "corpora"
    )
    assert sorted(names(corpus)) == [".", "a", "b"]
    for name, word in (("a", "apple"), ("b", "berry"), (".", "cherry")):
        assert set(text_of(corpus, name).replace("\0", "").split()) == {word}
    total = corpus.groups.tokens_D.sum()
    assert total == len(corpus.validation) == corpus.groups.bytes_D.sum()


def test_a_row_belongs_to_its_file(tmp_path: Path) -> None:
    for name in ("wiki", "code"):
        rows = [json.dumps({"text": f"{name} {number}"}) for number in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    corpus = prepare(
        Files(glob=str(tmp_path / "*.jsonl"), validation_share=0.4), tmp_path / "corpora"
    )
    assert sorted(names(corpus)) == ["code.jsonl", "wiki.jsonl"]
    assert "code" not in text_of(corpus, "wiki.jsonl")


def test_a_row_may_name_its_group(tmp_path: Path) -> None:
    rows = [{"text": f"{name} {n}", "domain": name} for name in ("law", "math") for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        spec = Files(glob=str(tmp_path / name), group_column="domain", validation_share=0.4)
        corpus = prepare(spec, tmp_path / "corpora")
        assert sorted(names(corpus)) == ["law", "math"]
        assert "law" not in text_of(corpus, "math")
        with pytest.raises(SpecError, match=r"'topic'.*data\.group_column"):
            prepare(spec.model_copy(update={"group_column": "topic"}), tmp_path / "corpora")


def test_a_synthetic_document_belongs_to_its_domain(tmp_path: Path) -> None:
    spec = Synthetic(num_domains=3, num_tokens=50_000, validation_share=0.5)
    corpus = prepare(spec, tmp_path)
    document_NT, domain_N = synthetic_documents(spec)
    held_out = len(corpus.validation) // DOCUMENT_TOKENS
    for group in corpus.groups.largest(3, 1):
        domain = int(group.name.removeprefix("domain-"))
        expected = document_NT[:held_out][domain_N[:held_out] == domain].ravel()
        np.testing.assert_array_equal(whole(corpus, group), expected)


def test_a_shard_is_a_group_of_its_own(tmp_path: Path) -> None:
    for name, tokens in (("train", 500), ("val-a", 100), ("val-b", 300)):
        np.arange(tokens, dtype="<u2").tofile(tmp_path / f"{name}.bin")
    spec = Shards(
        train_glob=str(tmp_path / "train.bin"),
        validation_glob=str(tmp_path / "val-*.bin"),
        bytes_per_token=4.0,
    )
    corpus = prepare(spec, tmp_path)
    assert names(corpus) == ["val-b.bin", "val-a.bin"]
    assert corpus.bytes_per_token == 4.0


def test_the_groups_of_the_standard_library_are_its_packages(tmp_path: Path) -> None:
    corpus = prepare(PythonStdlib(), tmp_path)
    assert {"test", "."} <= set(names(corpus)[:5])


def test_bytes_per_token_are_those_of_the_group(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.md").write_text(f"{number} the same words again and again " * 7)
    (tmp_path / "odd").mkdir()
    for number in range(40):
        (tmp_path / "odd" / f"{number}.md").write_text(f"zq{number}xv" * 20)
    corpus = prepare(
        Files(
            glob=str(tmp_path / "**/*.md"),
            tokenizer=BpeTokenizer(vocab_size=280),
            validation_share=0.4,
        ),
        tmp_path / "corpora",
    )
    plain, odd = corpus.groups.largest(2, 1)
    assert (plain.name, odd.name) == (".", "odd")
    assert plain.bytes_per_token > 1.5 * odd.bytes_per_token


def test_the_largest_groups_come_first_and_small_ones_are_left_out() -> None:
    groups = group_documents(["b", "a", "b", "c"], [10, 5, 10, 3], [10, 5, 10, 3])
    assert [group.name for group in groups.largest(9, 4)] == ["b", "a"]
    assert [group.name for group in groups.largest(1, 4)] == ["b"]


def test_windows_have_even_distances_over_a_groups_documents() -> None:
    groups = group_documents(["b", "a", "b", "c"], [10, 5, 10, 3], [10, 5, 10, 3])
    (b,) = groups.largest(1, 4)
    stream = np.arange(28, dtype=np.uint16)
    joined = [*range(10), *range(15, 25)]
    everything = groups.windows(stream, b, seq_len=3, max_tokens=99)
    assert everything.tolist() == [joined[start : start + 4] for start in range(0, 18, 3)]
    few = groups.windows(stream, b, seq_len=3, max_tokens=11)
    assert few.tolist() == [joined[start : start + 4] for start in (0, 6, 12)]
    assert groups.windows(stream, b, seq_len=19, max_tokens=1).tolist() == [joined]
