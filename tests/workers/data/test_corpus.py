from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import (
    BpeTokenizer,
    DataSpec,
    Files,
    FileTokenizer,
    PythonStdlib,
    Shards,
    Synthetic,
    matching_files,
)
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.corpus import check_fits, prepare
from evenload.workers.data.synthetic import synthetic_documents
from evenload.workers.data.tokenizer import BytesEncoder, read_encoder

TEXT = "The quick brown fox jumps over the lazy dog. Zwölf Boxkämpfer.\n"  # under 50 words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        own = " ".join(f"{number}x{place}" for place in range(30 * (number + 1)))
        (tmp_path / f"{number}.txt").write_text(f"{TEXT}{own}\n")
    return tmp_path


def files(folder: Path, **changes: Any) -> Files:
    return Files(glob=str(folder / "*.txt"), **({"validation_share": 0.3} | changes))


def test_every_byte_is_in_exactly_one_part(folder: Path, tmp_path: Path) -> None:
    corpus = prepare(files(folder), tmp_path / "corpora")
    whole = sum(path.stat().st_size + 1 for path in folder.glob("*.txt"))
    assert len(corpus.train) + len(corpus.validation) == whole
    assert 0 < len(corpus.validation) < len(corpus.train)
    assert bytes(corpus.train[:20].astype(np.uint8)).decode() == TEXT[:20]


def test_a_document_keeps_its_part_when_others_are_added(folder: Path, tmp_path: Path) -> None:
    before = prepare(files(folder), tmp_path / "corpora")
    (folder / "extra.txt").write_text("new")
    after = prepare(files(folder), tmp_path / "corpora")
    assert after.digest != before.digest
    assert 0 <= len(after.validation) - len(before.validation) <= 4


def test_another_folder_and_other_names_give_the_same_corpus(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number, path in enumerate(sorted(folder.glob("*.txt"), reverse=True)):
        shutil.copy(path, other / f"{number:03}.txt")
    digests = {prepare(files(one), tmp_path / "corpora").digest for one in (folder, other)}
    assert len(digests) == 1


def test_sources_are_read_again_only_if_a_file_changed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(files(folder), tmp_path / "corpora")
    with monkeypatch.context() as patch:
        patch.setattr("evenload.workers.data.corpus.read_documents", None)
        assert prepare(files(folder), tmp_path / "corpora").digest == first.digest
    for change in ("new text of another length", "NEW text of another length"):  # the same size
        (folder / "0.txt").write_text(change)
        again = prepare(files(folder), tmp_path / "corpora")
        assert again.digest != first.digest
        first = again


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_corpus_is_made_again(damage: str, folder: Path, tmp_path: Path) -> None:
    first = prepare(files(folder), tmp_path / "corpora")
    expected = np.array(first.train)  # a copy: the mapped file is cut below
    (stream,) = (tmp_path / "corpora").glob("*/train.bin")
    content = bytearray(stream.read_bytes())
    if damage == "cut":
        stream.write_bytes(content[:-200])
    else:
        content[100] ^= 1
        stream.write_bytes(content)
    again = prepare(files(folder), tmp_path / "corpora")
    assert again.digest == first.digest
    assert np.array_equal(again.train, expected)


def test_the_second_time_nothing_is_tokenised(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(files(folder), tmp_path / "corpora")
    monkeypatch.setattr("evenload.workers.data.corpus.make_encoder", None)
    assert prepare(files(folder), tmp_path / "corpora").digest == first.digest


def test_bpe_is_shorter_than_bytes_and_counts_bytes_per_token(folder: Path, tmp_path: Path) -> None:
    plain = prepare(files(folder), tmp_path / "corpora")
    bpe = prepare(files(folder, tokenizer=BpeTokenizer(vocab_size=300)), tmp_path / "corpora")
    assert bpe.vocab_size == 300
    assert len(bpe.validation) < len(plain.validation) * 0.85
    assert bpe.bytes_per_token * len(bpe.validation) == pytest.approx(len(plain.validation))


def test_jsonl_and_parquet_read_the_named_column(tmp_path: Path) -> None:
    rows = [f"row {number} {TEXT}" for number in range(30)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"body": row}) for row in rows))
    pq.write_table(pa.table({"body": rows}), tmp_path / "b.parquet")
    lengths = [
        sum(len(part) for part in prepare(spec, tmp_path / "corpora")[:2])
        for spec in (
            Files(glob=str(tmp_path / "a.jsonl"), column="body", validation_share=0.3),
            Files(glob=str(tmp_path / "b.parquet"), column="body", validation_share=0.3),
        )
    ]
    assert lengths == [sum(len(row.encode()) + 1 for row in rows)] * 2


def test_the_standard_library_is_large_and_splits_by_share(tmp_path: Path) -> None:
    corpus = prepare(PythonStdlib(), tmp_path)
    assert len(corpus.train) > 5_000_000
    assert 0.01 < len(corpus.validation) / len(corpus.train) < 0.12


def test_synthetic_domains_have_their_own_successors(tmp_path: Path) -> None:
    spec = Synthetic(num_domains=2, vocab_size=64, num_tokens=200_000)
    document_NT, domain_N = synthetic_documents(spec)
    pairs = [
        {tuple(pair) for row in document_NT[domain_N == domain] for pair in pairwise(row)}
        for domain in (0, 1)
    ]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 4
    assert prepare(spec, tmp_path).digest == prepare(spec, tmp_path).digest


def test_shards_are_mapped_and_known_by_their_whole_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = (np.arange(3 * 2**20) % 251).astype("<u4")
    for name in ("train", "validation"):
        tokens.tofile(tmp_path / f"{name}.bin")
    spec = Shards(
        train_glob=str(tmp_path / "train*.bin"),
        validation_glob=str(tmp_path / "val*.bin"),
        dtype="uint32",
    )
    corpus = prepare(spec, tmp_path)
    assert corpus.train[:3].tolist() == [0, 1, 2]
    assert corpus.vocab_size == 251
    with monkeypatch.context() as patch:  # nothing is read a second time
        patch.setattr("evenload.workers.data.corpus.file_digest", None)
        assert prepare(spec, tmp_path).digest == corpus.digest
    tokens[len(tokens) // 2] = 300
    tokens.tofile(tmp_path / "train.bin")
    changed = prepare(spec, tmp_path)
    assert changed.digest != corpus.digest
    assert changed.vocab_size == 301


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (Files(glob="/nowhere/*.txt"), ["/nowhere/*.txt", "matches no file"]),
        (Shards(train_glob="/nowhere/a", validation_glob="b"), ["train_glob", "matches no file"]),
        (
            PythonStdlib(tokenizer=FileTokenizer(path=Path("/nowhere/t.json"))),
            ["/nowhere/t.json", "no such file"],
        ),
    ],
)
def test_missing_sources_are_named(spec: DataSpec, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        prepare(spec, tmp_path)
    assert [word for word in words if word not in str(error.value)] == []


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text(TEXT)
    with pytest.raises(SpecError, match="leave none for"):
        prepare(files(tmp_path), tmp_path / "corpora")


def test_a_jsonl_row_without_the_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    with pytest.raises(SpecError, match=r"a\.jsonl:2.*data\.column"):
        prepare(Files(glob=str(tmp_path / "a.jsonl")), tmp_path / "corpora")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "caf\xff"}', ["a.jsonl:3", "not a JSON object", "0xff"]),
        (b'{"text": "cut', ["a.jsonl:3", "not a JSON object"]),
        (b'["text"]', ["a.jsonl:3", "key 'text'"]),
        (b'{"text": {"a": 1}}', ["a.jsonl:3", "dict, not text", "data.column"]),
        (b'{"text": 7}', ["a.jsonl:3", "int, not text"]),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    line: bytes, words: list[str], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\n\n' + line + b"\n")
    with pytest.raises(SpecError) as error:
        prepare(Files(glob=str(tmp_path / "*.jsonl")), tmp_path / "corpora")
    assert [word for word in words if word not in str(error.value)] == []


def test_a_byte_order_mark_blank_lines_and_nulls_are_no_text(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {number} {TEXT}"}) for number in range(20)]
    content = "\n\n".join([*rows, '{"text": null}', ""])
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    spec = Files(glob=str(tmp_path / "a.jsonl"), validation_share=0.3)
    origin = prepare(spec, tmp_path / "corpora").origin
    assert origin is not None
    assert (origin.documents, origin.empty) == (20, 1)


def test_a_cut_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [TEXT] * 50}), tmp_path / "b.parquet")
    whole = (tmp_path / "b.parquet").read_bytes()
    (tmp_path / "b.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match=r"b\.parquet: not a whole parquet file"):
        prepare(Files(glob=str(tmp_path / "b.parquet")), tmp_path / "corpora")


def test_a_corpus_too_small_for_one_batch_is_refused(folder: Path, tmp_path: Path) -> None:
    spec = TrialSpec.model_validate(
        {
            "model": {"preset": "tiny"},
            "train": {"steps": 1, "batch_sequences": 512, "seq_len": 512},
            "balancer": {"kind": "none"},
        }
    )
    with pytest.raises(SpecError, match=r"training tokens are too few.*batch_sequences=512"):
        check_fits(spec, prepare(files(folder), tmp_path / "corpora"))


def test_small_vocabularies_are_stored_as_before(tmp_path: Path) -> None:
    corpus = prepare(Synthetic(num_tokens=20_000, vocab_size=300), tmp_path)
    assert corpus.train.dtype == np.uint16
    assert corpus.digest == "7ff9fd11ff322ff5"


def test_more_than_65536_tokens_are_stored_whole(folder: Path, tmp_path: Path) -> None:
    """As of Qwen3, whose vocabulary has 151,936 tokens; ids of a real tokenizer have gaps."""
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {"[UNK]": 0, "fox": 1, "dog": 151_643, "</s>": 150_000}, "[UNK]"
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    corpus = prepare(files(folder, tokenizer=FileTokenizer(path=path)), tmp_path / "corpora")
    assert corpus.vocab_size == 151_644
    assert corpus.train.dtype == np.uint32
    assert set(corpus.train.tolist()) == {0, 1, 150_000, 151_643}
    again = prepare(files(folder, tokenizer=FileTokenizer(path=path)), tmp_path / "corpora")
    assert np.array_equal(again.validation, corpus.validation)
    drawn = prepare(Synthetic(num_tokens=200_000, vocab_size=100_000), tmp_path / "corpora")
    assert drawn.train.max() > 90_000


def test_the_settings_of_a_tokenizer_file_do_not_cut_or_fill_texts(tmp_path: Path) -> None:
    encoder = BytesEncoder()
    tokenizer = tokenizers.Tokenizer.from_str(encoder.to_json())
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=4000)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tokens,) = read_encoder(tmp_path / "tokenizer.json").encode(["x" * 100])
    assert len(tokens) == 101


def test_a_tokenizer_without_an_end_needs_to_be_told_one(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    words = tokenizers.models.WordLevel({"stop": 7, "x": 3}, unk_token="x")
    tokenizers.Tokenizer(words).save(str(path))
    with pytest.raises(SpecError, match=r"no token .*endoftext.* set data.tokenizer.end"):
        read_encoder(path)
    assert read_encoder(path, "stop").end_id == 7


def test_a_path_with_brackets_is_no_pattern_and_folders_are_told(tmp_path: Path) -> None:
    (tmp_path / "a[1]").mkdir()
    (tmp_path / "a[1]" / "b.txt").write_text("x")
    found = matching_files("glob", str(tmp_path / "a[1]" / "b.txt"))
    assert found == [tmp_path / "a[1]" / "b.txt"]
    with pytest.raises(SpecError, match=r"matches folders alone; .*/\*\*/\*.txt"):
        matching_files("glob", str(tmp_path / "a[1]"))
    with pytest.raises(SpecError, match=r"matches no file below .*, where evenload runs"):
        matching_files("glob", "absent/*.txt")
    assert Files(glob="$HOME/x").glob == Files(glob="~/x").glob == str(Path.home() / "x")
