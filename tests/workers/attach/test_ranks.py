"""Two ranks over gloo: counts and biases are those of one process with all the tokens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.records.recorded_runs import recorded_runs
from evenload.pipeline.records.shards import read_history
from tests.workers.attach.models import model
from tests.workers.attach.rank_process import PIECES, STEPS, attach, batch, stacked

TOP_K, LAYERS, RANKS = 2, 2, (0, 1)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, all cases in one start of them."""
    folder = tmp_path_factory.mktemp("ranks")
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    script = str(Path(__file__).with_name("rank_process.py"))
    processes = [
        subprocess.Popen([sys.executable, script, str(folder), str(rank)], env=environment)
        for rank in RANKS
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


def found(folder: Path, case: str) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{case}-{rank}.pt", weights_only=True) for rank in RANKS]


def unpadded() -> list[int]:
    return [
        sum(int(batch(step, piece, rank)[1].sum()) for piece in range(PIECES) for rank in RANKS)
        for step in range(STEPS)
    ]


def alone(own_bias: bool) -> tuple[Tensor, Tensor]:
    """Counts and biases of one process that runs the batches of both ranks."""
    trained = model(own_bias=own_bias)
    balance, counts = attach(trained)
    for step in range(STEPS):
        for rank in RANKS:
            for piece in range(PIECES):
                token_BS, mask_BS = batch(step, piece, rank)
                trained(token_BS, attention_mask=mask_BS)
        balance.step()
    return torch.stack(counts), stacked(balance)


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_ddp_equals_one_process_bit_for_bit(folder: Path, own_bias: bool) -> None:
    count_NLE, bias_LE = alone(own_bias)
    for rank in found(folder, "ddp-own" if own_bias else "ddp"):
        assert torch.equal(rank["counts"], count_NLE)
        assert torch.equal(rank["biases"], bias_LE)


SHARDED = ["fsdp-before", "fsdp-after", "fsdp-own", "fsdp1", "fsdp1-own"]


@pytest.mark.parametrize("case", ["ddp-learning", *SHARDED])
def test_counts_are_those_of_all_unpadded_tokens_and_ranks_stay_together(
    folder: Path, case: str
) -> None:
    first, second = found(folder, case)
    assert first["steps"] == second["steps"] == STEPS
    assert torch.equal(first["counts"], second["counts"])
    assert first["counts"].sum(dim=-1).tolist() == [[TOP_K * n] * LAYERS for n in unpadded()]
    assert torch.equal(first["biases"], second["biases"])
    assert first["biases"].abs().sum() > 0


def test_learning_weights_stay_the_same_on_both_ranks(folder: Path) -> None:
    first, second = found(folder, "ddp-learning")
    assert torch.equal(first["weights"], second["weights"])


@pytest.mark.parametrize("case", SHARDED)
def test_fsdp_leaves_the_bias_in_float32_and_keeps_its_classes_after_detach(
    folder: Path, case: str
) -> None:
    for rank in found(folder, case):
        assert rank["dtypes"] == {"torch.float32"}
        if "fsdp1" not in case:
            assert {"FSDPLayer", "FSDPModel"} <= set(rank["classes"])
        own = [f"layers.{n}.mlp.gate.e_score_correction_bias" for n in range(LAYERS)]
        assert rank["left"] == (own if "own" in case else [])


def test_a_rank_without_tokens_takes_part(folder: Path) -> None:
    first, second = found(folder, "idle")
    tokens = [int(batch(step, 0, 0)[1].sum()) for step in range(STEPS)]
    assert first["counts"].sum(dim=-1).tolist() == [[TOP_K * n] * LAYERS for n in tokens]
    assert torch.equal(first["counts"], second["counts"])
    assert torch.equal(first["biases"], second["biases"])
    assert first["sums"] == second["sums"] == STEPS, "one sum a step for all layers"


def test_opposite_skews_of_two_ranks_are_perfect_balance(folder: Path) -> None:
    """The mean or maximum of the ranks' own figures would be 1."""
    assert [rank["max_vio"] for rank in found(folder, "opposite")] == [[0.0], [0.0]]


def test_a_group_sums_over_its_own_ranks(folder: Path) -> None:
    first, second = found(folder, "groups")
    assert first["counts"].shape == (1, 1, 8)
    assert second["counts"].shape == (1, 2, 8)
    assert first["counts"].sum() == 64 * TOP_K


REFUSED = {
    "disagree": "all ranks of a group must attach the same routers",
    "no-router": "rank 1 has Model has no router",
    "fsdp-parameter": "e_score_correction_bias is sharded; attach before sharding",
    "fsdp1-cast": r"became torch\.bfloat16, too coarse.*buffer_dtype",
    "joined": "runs in Join of DistributedDataParallel.*as many steps",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ranks_cannot_do_is_refused_on_both_and_nobody_waits(folder: Path, case: str) -> None:
    for rank in found(folder, case):
        assert re.search(REFUSED[case], rank["error"])


def test_one_rank_records_scores_and_knows_the_tokens_of_all(folder: Path) -> None:
    first, second = found(folder, "scores")
    assert (first["shape"], first["step_tokens"]) == ([1, LAYERS, 64, 8], 128)
    assert "call this on the first rank" in second["error"]


def test_one_rank_records_the_run_with_the_counts_of_all(folder: Path) -> None:
    first, second = found(folder, "recorded")
    assert torch.equal(first["counts"], second["counts"])
    (run,) = recorded_runs(folder / "home")
    history = read_history(run.folder)
    assert history.count_SLE.tolist() == first["counts"].tolist()
    assert history.scalars["loss"].tolist() == [1.0] * STEPS
