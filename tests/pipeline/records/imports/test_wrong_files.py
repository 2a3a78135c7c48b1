"""A wrong file is refused with what is wrong and what to do, never with a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.imports import FORMATS
from evenload.pipeline.records.imports.recorded import Asked
from tests.pipeline.records.imports import writers
from tests.pipeline.records.imports.writers import EXPERTS, TOP_K, counted, routes

ASKED = Asked(num_experts=EXPERTS, top_k=TOP_K, score="softmax")


def refusal(kind: str, *paths: Path, asked: Asked = ASKED) -> str:
    with pytest.raises(SpecError) as error:
        FORMATS[kind].read(paths, asked)
    return str(error.value)


def edited(path: Path, line: int, change: Callable[[dict[str, Any]], object]) -> Path:
    lines = path.read_text().splitlines()
    record = json.loads(lines[line])
    change(record)
    lines[line] = json.dumps(record)
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.pop("layer"), "line 2: layer: required; give it a value"),
        (lambda r: r.update(step="2"), 'line 2: step="2": must be an integer'),
        (
            lambda r: r.update(step=-1),
            "line 2: step=-1: must be greater than",
        ),
        (lambda r: r.update(top_indices=[[1], [2, 3]]), "top_indices must have topk=2 experts"),
        (lambda r: r.update(top_indices=[[0.5, 1]] * 5), "top_indices.0.0=0.5: must be"),
        (lambda r: r.update(top_indices=[["a", "b"]] * 5), 'top_indices.0.0="a"'),
        (lambda r: r["top_indices"][0].__setitem__(0, 8), "expert 8, but num_experts=8 has 0 to 7"),
        (lambda r: r["top_indices"][0].__setitem__(0, -1), "top_indices.0.0=-1"),
        (lambda r: r.update(top_indices=None), "top_indices=null: must be a list"),
        (lambda r: r.update(step=2**63), "line 2: step=9223372036854775808: must be less"),
        (lambda r: r.update(topk=1, top_indices=[[1]] * 5), "topk=1, before it was 2"),
    ],
)
def test_a_megatron_record_that_is_wrong(tmp_path: Path, change: Any, said: str) -> None:
    path = edited(writers.megatron_trace(tmp_path, routes()), 1, change)
    assert said in refusal("megatron", path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(logit_bytes=320), "logit_bytes=320 do not describe bfloat16 logits"),
        (lambda r: r.pop("logit_shape"), "logit_shape=[0, 0] and logit_bytes=80"),
        (lambda r: r.update(logit_shape=[5]), "logit_shape.1: required"),
        (lambda r: r.update(logit_offset=10**9), "logits_rank0.bin: ends before byte"),
        (lambda r: r.update(logit_offset=-1), "logit_offset=-1: must be"),
        (lambda r: r.update(logit_shape=[5, 4], logit_bytes=40), "experts=4, before it was 8"),
        (lambda r: r.update(rank=3), "logits_rank3.bin: No such file or directory"),
    ],
)
def test_megatron_logits_that_do_not_fit(tmp_path: Path, change: Any, said: str) -> None:
    logit_SLTE = np.zeros((1, 1, 10, EXPERTS), np.float32)
    path = writers.megatron_trace(tmp_path, routes(1, 1), logit_SLTE)
    for line in range(2) if said.startswith("logits_rank3") else [1]:
        edited(path, line, change)
    assert said in refusal("megatron", path, asked=ASKED._replace(num_experts=None))


def test_a_megatron_trace_does_not_tell_everything(tmp_path: Path) -> None:
    path = writers.megatron_trace(tmp_path, routes())
    said = refusal("megatron", path, asked=Asked())
    assert said.endswith("does not tell how many experts there are; pass --num-experts")
    path = writers.megatron_trace(tmp_path, routes(), np.zeros((3, 2, 10, EXPERTS), np.float32))
    said = refusal("megatron", path, asked=Asked(score="relu"))
    assert "--score=relu" in said
    assert "softmax, sigmoid, sqrtsoftplus, logit" in said


def test_megatron_logits_of_some_layers_make_no_scores(tmp_path: Path) -> None:
    logit_SLTE = np.zeros((2, 2, 10, EXPERTS), np.float32)
    path = writers.megatron_trace(tmp_path, routes(2, 2), logit_SLTE)
    for line in range(0, 8, 2):
        edited(path, line, lambda record: record.pop("logit_offset"))
    assert refusal("megatron", path) == (
        "no step has the logits of all layers; trace again with all of them"
    )


def test_a_number_of_experts_that_cannot_be_is_not_counted_in() -> None:
    asked = ASKED._replace(num_experts=2**40)
    said = refusal("routed_experts", Path("a.npy"), asked=asked)
    assert said == "num_experts=1099511627776 is more than 65536; correct it"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]\n", b"\xff\xfe", b"PK\x03\x04"])
def test_other_files_are_no_megatron_trace(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trace.jsonl").write_bytes(content)
    assert "trace.jsonl" in refusal("megatron", tmp_path / "trace.jsonl")


def test_a_megatron_trace_cut_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    path = writers.megatron_trace(tmp_path, routes(1, 1), np.zeros((1, 1, 10, EXPERTS), np.float32))
    content = path.read_bytes()
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        try:
            FORMATS["megatron"].read([path], ASKED)
        except SpecError:
            continue
        assert content[end - 1 : end] in (b"\n", b"}"), "half a record was taken for one"


def sglang(**changes: Any) -> Asked:
    logical_LP = writers.physical_map(layers=2)
    dump = writers.sglang_records(routes(), logical_LP, by_token=True)
    for key, value in changes.items():
        where = dump if key in dump else dump["records"][1]
        where[key] = value
        if value is None:
            del where[key]
    return ASKED._replace(load_torch=lambda path: dump)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"last_physical_to_logical_map": None}, "has no 'last_physical_to_logical_map'"),
        ({"last_physical_to_logical_map": np.zeros(3)}, "instead of 2 dimensions"),
        ({"last_physical_to_logical_map": np.full((2, 12), -1)}, "holds -1"),
        ({"last_physical_to_logical_map": np.zeros((3, 12), int)}, "the map (3, 12)"),
        ({"forward_pass_id": None}, "records[1]: has no whole number 'forward_pass_id'"),
        ({"topk_ids_of_layer": np.full((2, 4, 8), 12)}, "expert 12 of 12 physical ones"),
        ({"topk_ids_of_layer": np.full((2, 4, 8), 0.5)}, "float64 instead of whole numbers"),
        ({"topk_ids_of_layer": np.zeros((2, 4), int)}, "instead of 3 dimensions"),
        ({"topk_ids_of_layer": None, "global_physical_count": None}, "is missing"),
        ({"records": None}, "has neither 'logical_count' nor 'records'"),
        ({"records": []}, "no expert was chosen"),
    ],
)
def test_an_sglang_dump_that_is_wrong(changes: dict[str, Any], said: str) -> None:
    assert said in refusal("sglang", Path("a.pt"), asked=sglang(**changes))


@pytest.mark.parametrize("dump", [None, [], 3, {}, {"logical_count": np.zeros((2, 3))}])
def test_other_objects_are_no_sglang_dump(dump: Any) -> None:
    assert refusal("sglang", Path("a.pt"), asked=ASKED._replace(load_torch=lambda path: dump))


def test_sglang_dumps_of_two_recordings_are_not_mixed() -> None:
    maps = iter([writers.physical_map(2), writers.physical_map(2)[::-1]])
    asked = ASKED._replace(
        load_torch=lambda path: writers.sglang_records(routes(), next(maps), by_token=True)
    )
    assert "is not that of a.pt" in refusal("sglang", Path("a.pt"), Path("b.pt"), asked=asked)
    dumps = iter([sglang().load_torch, lambda path: writers.sglang_stat(routes(), 5)])
    asked = ASKED._replace(load_torch=lambda path: next(dumps)(path))
    said = refusal("sglang", Path("a.pt"), Path("b.pt"), asked=asked)
    assert said == "b.pt: a dump of mode stat holds all ranks; import it alone"


def test_sglang_counts_alone_do_not_tell_top_k() -> None:
    asked = ASKED._replace(top_k=None, load_torch=lambda path: writers.sglang_stat(routes(), 5))
    assert "does not record top-k; pass --top-k" in refusal("sglang", Path("a.pt"), asked=asked)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 2), int), "instead of (tokens, layers, K)"),
        (np.zeros((0, 2, 2), int), "none of them 0"),
        (np.full((4, 2, 2), 8), "expert 8, but num_experts=8 has 0 to 7; pass --num-experts"),
        (np.full((4, 2, 2), -2), "holds -2"),
        (np.full((4, 2, 2), 0.5), "float64 instead of whole numbers"),
        (np.full((4, 2, 2), np.nan), "float64 instead of whole numbers"),
        (np.array([[["a"]]]), "instead of whole numbers"),
        (np.zeros((4, 2, 2), int), "no expert was chosen"),
        (np.ones((4, 2, 8), int), "top_k=8 of 8 experts leaves nothing to balance"),
    ],
)
def test_routed_experts_that_are_wrong(tmp_path: Path, array: Any, said: str) -> None:
    np.save(tmp_path / "request.npy", array)
    assert said in refusal("routed_experts", tmp_path / "request.npy")


def test_routed_experts_of_two_models_are_not_mixed(tmp_path: Path) -> None:
    for layers in (2, 3):
        np.save(tmp_path / f"{layers}.npy", np.ones((4, layers, 2), int))
    said = refusal("routed_experts", tmp_path / "2.npy", tmp_path / "3.npy")
    assert "3.npy: (layers, K)=(3, 2), before it was (2, 2)" in said


COUNTS = counted(routes())


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "has no arrays, but neither 'count_SLE'"),
        ({"weights": COUNTS}, "has weights, but neither 'count_SLE'"),
        ({"count_SLE": COUNTS[0]}, "instead of 3 dimensions"),
        ({"count_SLE": -COUNTS}, "it must lie between 0 and"),
        ({"count_SLE": COUNTS.astype(np.uint64) + 2**63}, "it must lie between 0 and"),
        ({"count_SLE": COUNTS + 1e300}, "it must lie between 0 and"),
        ({"count_SLE": COUNTS, "top_k": [1, 2]}, "top_k: has the shape (2,)"),
        ({"count_SLE": COUNTS + 0.5}, "instead of whole numbers"),
        ({"count_SLE": COUNTS[..., :4]}, "counts of 4 experts, but --num-experts is 8"),
        ({"count_SLE": COUNTS, "layers": ["one"]}, "1 layers are named, 2 counted"),
        ({"count_SLE": COUNTS, "step_S": [1, 1, 2]}, "step_S must be 3 numbers that grow"),
        ({"count_SLE": COUNTS * 0}, "no expert was chosen"),
        (
            {"a.tokens_per_expert": COUNTS[:, 0], "b.tokens_per_expert": COUNTS[:, 1, :4]},
            "shape=(3, 4), before it was (3, 8); import layers of one size",
        ),
        ({"count_SLE": np.array([[[None]]])}, "no .npz file"),
    ],
)
def test_counts_that_are_wrong(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "counts.npz", **arrays)
    assert said in refusal("npz", tmp_path / "counts.npz")


ROWS = {"step": [1, 1], "layer": [0, 1], "load": [[1, 2], [2, 1]]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load": [[1, 2], [1, 2, 3]]}, "experts=3, before it was 2"),
        ({"load": [[1, 2], None]}, "load of step 1, layer 1 is null"),
        ({"load": [[1, 2], [1, None]]}, "load of step 1, layer 1 is null"),
        ({"load": [[1, 2], [1, -2]]}, "holds -2"),
        ({"load": [1, 2]}, "load is int64 instead of a list"),
        ({"load": [["a"], ["b"]]}, "instead of whole numbers"),
        ({"step": ["a", "b"]}, "step must be a whole number"),
        ({"step": [1, None]}, "step must be a whole number"),
        ({"layer": [0, None]}, "layer one or a name, in every row"),
        ({"layer": [[0], [1]]}, "layer one or a name, in every row"),
        ({"step": [2**60, 1]}, "step=1152921504606846976: no run has as many"),
    ],
)
def test_rows_that_are_wrong(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    pq.write_table(pa.table(ROWS | changes), tmp_path / "rows.parquet")
    asked = Asked(top_k=1)
    assert said in refusal("parquet", tmp_path / "rows.parquet", asked=asked)


def test_rows_without_a_column_or_without_rows(tmp_path: Path) -> None:
    table = pa.table(ROWS)
    pq.write_table(table.drop_columns(["load"]), tmp_path / "a.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "b.parquet")
    assert "has no column 'load' but step, layer" in refusal("parquet", tmp_path / "a.parquet")
    assert "has no rows" in refusal("parquet", tmp_path / "b.parquet")


@pytest.mark.parametrize("kind", ["routed_experts", "npz", "parquet"])
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 bad", b"\x93NUMPY\x01\x00", None])
def test_files_that_are_something_else(tmp_path: Path, kind: str, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    assert str(path) in refusal(kind, path)


def _written(kind: str, folder: Path) -> Path:
    path = folder / "file"
    with path.open("wb") as file:
        match kind:
            case "routed_experts":
                np.save(file, np.ones((4, 2, 2), np.int32))
            case "npz":
                np.savez(file, count_SLE=COUNTS, top_k=2)
            case "parquet":
                pq.write_table(pa.table(ROWS), file)
            case _:
                file.write(writers.megatron_trace(folder, routes(1, 1)).read_bytes())
    return path


@pytest.mark.parametrize("kind", ["megatron", "routed_experts", "npz", "parquet"])
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    path, rng = _written(kind, tmp_path), np.random.default_rng(0)
    content = path.read_bytes()
    refused = 0
    for _ in range(300):
        damaged = bytearray(content[: rng.integers(len(content) + 1)] or content)
        for place in rng.integers(len(damaged), size=rng.integers(4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            FORMATS[kind].read([path], ASKED)
        except SpecError:
            refused += 1
    assert refused > 100
