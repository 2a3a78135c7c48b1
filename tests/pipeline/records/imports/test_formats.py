"""Every format gives back the counts that were written, exactly.

Letters: S steps, L layers, T tokens, K top-k, E experts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evenload.pipeline.records.imports import FORMATS
from evenload.pipeline.records.imports.recorded import Asked, Recorded
from tests.pipeline.records.imports import writers
from tests.pipeline.records.imports.writers import EXPERTS, TOP_K, counted, routes


def read(kind: str, *paths: Path, **asked: object) -> Recorded:
    return FORMATS[kind].read(paths, Asked(**asked))  # type: ignore[arg-type]


def test_megatron_counts_of_micro_batches_and_ranks_are_summed(tmp_path: Path) -> None:
    expert_SLTK = [routes(seed=rank) for rank in range(2)]
    paths = [writers.megatron_trace(tmp_path, each, rank=n) for n, each in enumerate(expert_SLTK)]
    found = read("megatron", *paths, num_experts=EXPERTS)
    assert np.array_equal(found.count_SLE, counted(expert_SLTK[0]) + counted(expert_SLTK[1]))
    assert found.layers == ("layer 1", "layer 2")
    assert found.step_S.tolist() == [1, 2, 3]
    assert found.top_k == TOP_K
    assert found.scores is None


def test_megatron_logits_give_the_number_of_experts_and_the_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    logit_SLTE = writers.bfloat16(rng.normal(size=(4, 2, 10, EXPERTS)))
    expert_SLTK = np.argsort(-logit_SLTE, axis=-1)[..., :TOP_K]
    path = writers.megatron_trace(tmp_path, expert_SLTK, logit_SLTE)
    found = read("megatron", path, score="sigmoid", score_tokens=7)
    assert np.array_equal(found.count_SLE, counted(expert_SLTK))
    assert found.scores is not None
    expected = 1 / (1 + np.exp(-logit_SLTE[:, :, :7].astype(np.float64)))
    assert found.scores.score_NLTE.shape == (4, 2, 7, EXPERTS)
    assert np.abs(found.scores.score_NLTE - expected).max() < 1e-6
    assert found.scores.top_k == TOP_K
    assert found.scores.step_tokens == 10
    assert found.scores.unit == "probability"
    raw = read("megatron", path, score="logit", score_tokens=7).scores
    assert raw is not None
    assert np.array_equal(raw.score_NLTE, logit_SLTE[:, :, :7])
    assert raw.unit == "logit"


def test_megatron_layers_of_the_decoder_come_before_those_that_predict(tmp_path: Path) -> None:
    path = writers.megatron_trace(tmp_path, routes(), micro_batches=1)
    text = path.read_text().replace(
        '"block": "decoder", "layer": 1', '"block": "mtp", "mtp_idx": 0, "layer": 1'
    )
    path.write_text(text)
    found = read("megatron", path, num_experts=EXPERTS)
    assert found.layers == ("layer 2", "mtp 0, layer 1")
    assert np.array_equal(found.count_SLE, counted(routes())[:, ::-1])


def test_a_step_that_was_cut_off_is_left_out_and_said(tmp_path: Path) -> None:
    path = writers.megatron_trace(tmp_path, routes(), micro_batches=1)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    found = read("megatron", path, num_experts=EXPERTS)
    assert np.array_equal(found.count_SLE, counted(routes())[:2])
    assert found.notes == ("1 steps are left out that lack some of the layers",)


@pytest.mark.parametrize("score", ["softmax", "sqrtsoftplus"])
def test_score_functions_are_those_of_the_model(tmp_path: Path, score: str) -> None:
    torch = pytest.importorskip("torch")
    logit_SLTE = writers.bfloat16(np.random.default_rng(0).normal(size=(2, 2, 10, EXPERTS)) * 9)
    path = writers.megatron_trace(tmp_path, routes(2), logit_SLTE)
    found = read("megatron", path, score=score).scores
    assert found is not None
    logit = torch.from_numpy(logit_SLTE)
    by_name = {
        "softmax": logit.softmax(dim=-1),
        "sqrtsoftplus": torch.nn.functional.softplus(logit).sqrt(),
    }
    assert np.allclose(found.score_NLTE, by_name[score].numpy(), rtol=1e-5, atol=1e-7)


def loader(**dumps: object) -> dict[str, object]:
    return {"load_torch": lambda path: dumps[path.stem]}


def test_sglang_stat_leaves_out_dense_layers_and_what_the_ring_never_held() -> None:
    dump = writers.sglang_stat(routes(), ring=5)
    found = read("sglang", Path("a.pt"), top_k=TOP_K, **loader(a=dump))
    assert np.array_equal(found.count_SLE, counted(routes()))
    assert found.layers == ("layer 1", "layer 2")
    assert found.notes == ("layers without experts are left out: layer 0",)
    full = read("sglang", Path("a.pt"), top_k=2, **loader(a=writers.sglang_stat(routes(), ring=3)))
    assert full.notes[-1] == "the recorder's ring is full, so the steps may begin in its middle"


@pytest.mark.parametrize("by_token", [True, False])
def test_sglang_records_name_logical_experts_and_sum_over_ranks(by_token: bool) -> None:
    expert_SLTK = [routes(seed=rank) for rank in range(2)]
    logical_LP = writers.physical_map(layers=2)
    dumps = {
        name: writers.sglang_records(each, logical_LP, by_token, rank)
        for rank, (name, each) in enumerate(zip("ab", expert_SLTK, strict=True))
    }
    asked = {} if by_token else {"top_k": TOP_K}
    found = read("sglang", Path("a.pt"), Path("b.pt"), **asked, **loader(**dumps))
    assert np.array_equal(found.count_SLE, counted(expert_SLTK[0]) + counted(expert_SLTK[1]))
    assert found.step_S.tolist() == [40, 41, 42]
    assert found.top_k == TOP_K


def test_routed_experts_of_requests_leave_out_dense_layers(tmp_path: Path) -> None:
    expert_SLTK = routes(steps=2)
    paths = []
    for request, expert_LTK in enumerate(expert_SLTK):
        array_TLK = np.concatenate([np.zeros_like(expert_LTK[:1]), expert_LTK]).swapaxes(0, 1)
        paths.append(tmp_path / f"{request}.npy")
        np.save(paths[-1], array_TLK.astype(np.int32))
    found = read("routed_experts", *paths, num_experts=EXPERTS)
    assert np.array_equal(found.count_SLE, counted(expert_SLTK))
    assert found.layers == ("layer 1", "layer 2")
    cut = read("routed_experts", *paths, num_experts=EXPERTS, tokens_per_step=8)
    every_LTK = np.concatenate(list(expert_SLTK), axis=1)
    parts = [every_LTK[:, start : start + 8] for start in range(0, 20, 8)]
    expected = np.concatenate([counted(part[None]) for part in parts])
    assert np.array_equal(cut.count_SLE, expected)
    assert cut.count_SLE[:, 0].sum(axis=-1).tolist() == [16, 16, 8]


def test_counts_of_torchtitan_come_layer_by_layer_as_whole_floats(tmp_path: Path) -> None:
    count_SLE = counted(routes(layers=11))
    arrays = {
        f"layers.{layer}.moe.tokens_per_expert_E": count_SLE[:, layer].astype(np.float32)
        for layer in range(11)
    }
    np.savez(tmp_path / "titan.npz", top_k=np.array(TOP_K), **arrays)
    found = read("npz", tmp_path / "titan.npz")
    assert np.array_equal(found.count_SLE, count_SLE)
    assert found.layers == tuple(f"layers.{layer}.moe" for layer in range(11))


def test_counts_of_ones_own_keep_their_steps_and_names(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "own.npz", count_SLE=counted(routes()), step_S=[10, 20, 30], layers=["a", "b"]
    )
    found = read("npz", tmp_path / "own.npz", top_k=TOP_K)
    assert np.array_equal(found.count_SLE, counted(routes()))
    assert found.step_S.tolist() == [10, 20, 30]
    assert found.layers == ("a", "b")


@pytest.mark.parametrize("names", [[0, 1], ["encoder", "decoder"]])
def test_rows_of_parquet_may_come_in_any_order(tmp_path: Path, names: list[object]) -> None:
    count_SLE = counted(routes())
    rows = [
        {"step": step + 1, "layer": names[layer], "load": count_SLE[step, layer].tolist()}
        for layer in (range(2) if isinstance(names[0], str) else (1, 0))
        for step in (2, 0, 1)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    found = read("parquet", tmp_path / "rows.parquet", top_k=TOP_K)
    assert np.array_equal(found.count_SLE, count_SLE)
    assert found.layers == (("layer 0", "layer 1") if names[0] == 0 else tuple(names))
