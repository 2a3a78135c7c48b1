"""`evenload import`: files of other programs become recorded runs with exactly their counts.

Letters: S steps, L layers, T tokens, K top-k, E experts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from evenload.pipeline.client import Client
from evenload.pipeline.records.recorded_runs import recorded_run, recorded_runs
from evenload.pipeline.records.scores import read_recording
from evenload.pipeline.records.shards import read_history
from evenload.workers.simulation.advice import estimate
from tests.pipeline.records.imports import writers
from tests.pipeline.records.imports.writers import EXPERTS, TOP_K, counted, routes

HOME = Path(".evenload")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tensors(value: Any) -> Any:
    """A dump with tensors, as torch.save gets it."""
    if isinstance(value, dict):
        return {key: tensors(each) for key, each in value.items()}
    if isinstance(value, list):
        return [tensors(each) for each in value]
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def written(kind: str) -> list[str]:
    """Arguments that import the routes of `writers`."""
    expert_SLTK = routes()
    match kind:
        case "megatron":
            writers.megatron_trace(Path(), expert_SLTK)
            return ["megatron", "router_trace_rank0.jsonl", "--num-experts", str(EXPERTS)]
        case "stat":
            torch.save(tensors(writers.sglang_stat(expert_SLTK, ring=9)), "dump.pt")
            return ["sglang", "dump.pt", "--top-k", str(TOP_K)]
        case "per_token":
            dump = writers.sglang_records(expert_SLTK, writers.physical_map(2), by_token=True)
            torch.save(tensors(dump), "dump.pt")
            return ["sglang", "dump.pt"]
        case "routed_experts":
            for request, expert_LTK in enumerate(expert_SLTK):
                np.save(f"{request}.npy", expert_LTK.swapaxes(0, 1))
            files = [f"{request}.npy" for request in range(len(expert_SLTK))]
            return ["routed_experts", *files, "--num-experts", str(EXPERTS)]
        case "npz":
            np.savez("counts.npz", count_SLE=counted(expert_SLTK), top_k=TOP_K)
            return ["npz", "counts.npz"]
        case _:
            rows = [
                {"step": step + 1, "layer": layer, "load": load_E.tolist()}
                for step, load_LE in enumerate(counted(expert_SLTK))
                for layer, load_E in enumerate(load_LE)
            ]
            pq.write_table(pa.Table.from_pylist(rows), "rows.parquet")
            return ["parquet", "rows.parquet", "--top-k", str(TOP_K)]


@pytest.mark.parametrize(
    "kind", ["megatron", "stat", "per_token", "routed_experts", "npz", "parquet"]
)
def test_an_import_is_a_recorded_run_with_exactly_the_counts(kind: str, here: Any) -> None:
    arguments = written(kind)
    ended = here("import", *arguments, "--name", "theirs", "--json")
    assert ended.code == 0, ended.err
    run = recorded_run(HOME, "theirs")
    assert run.source == f"import {arguments[0]}"
    assert np.array_equal(read_history(run.folder).count_SLE, counted(routes()))
    assert ended.document["shape"] == run.shape.model_dump(mode="json")
    assert (run.shape.num_experts, run.shape.top_k, run.shape.num_layers) == (EXPERTS, TOP_K, 2)
    assert ended.document["steps"] == 3
    assert ended.document["figures"]["max_vio"] == pytest.approx(run.figures()["max_vio"])
    assert ended.document["scores"] is None


def test_an_import_says_what_it_found(here: Any) -> None:
    ended = here("import", *written("stat"), "--name", "Their run")
    assert ended.code == 0, ended.err
    assert "their-run: 3 steps of 2 layers, top 2 of 8; MaxVio" in ended.out
    assert "layers without experts are left out: layer 0" in ended.err
    again = here("import", *written("npz"), "--name", "Their run", "--json")
    assert again.document["run_id"] == "their-run-2"


def test_advice_and_simulation_take_the_logits_of_an_imported_run_by_its_name(here: Any) -> None:
    rng = np.random.default_rng(0)
    logit_SLTE = rng.normal(size=(70, 2, 64, EXPERTS)) + np.linspace(0, 1, EXPERTS)
    expert_SLTK = np.argsort(-logit_SLTE, axis=-1)[..., :TOP_K]
    writers.megatron_trace(Path(), expert_SLTK, logit_SLTE)
    trace = ["megatron", "router_trace_rank0.jsonl", "--score", "sigmoid", "--name", "theirs"]
    assert here("import", *trace).code == 0
    recording = read_recording(recorded_run(HOME, "theirs").folder)
    advised = here("advise", "theirs", "--json")
    assert advised.document["seen"]["noise"] == pytest.approx(estimate(recording, 0).noise)
    simulation = {
        "num_experts": EXPERTS,
        "top_k": TOP_K,
        "streams": {"theirs": {"kind": "recorded", "path": "theirs"}},
        "rules": [{"kind": "none"}, {"kind": "self_tuned"}],
    }
    simulated = here("simulate", here.write("simulation.yaml", simulation), "--json")
    none, tuned = simulated.document["rows"]
    assert tuned["max_vio"] < 0.7 * none["max_vio"]


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["torch", "dump.pt"], "format='torch' is unknown; choose one of megatron, sglang"),
        (["sglang", "nowhere.pt"], "nowhere.pt: no file of torch.save"),
        (["sglang", "text.pt"], "text.pt: no file of torch.save"),
        (["sglang", "harmful.pt"], "harmful.pt: no file of torch.save that holds data alone"),
        (["npz", "text.pt"], "text.pt: no .npz file"),
        (["sglang", "dump.pt"], "mode stat does not record top-k; pass --top-k"),
    ],
)
def test_a_wrong_file_is_refused_and_leaves_no_run(
    arguments: list[str], said: str, here: Any
) -> None:
    written("stat")
    Path("text.pt").write_text("text")
    torch.save({"records": Harmful()}, "harmful.pt")
    ended = here("import", *arguments, "--name", "theirs")
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.count("\n") == 1
    assert recorded_runs(HOME) == []
    assert not Path("harmed").exists()


def test_damaged_dumps_are_read_or_refused(here: Any) -> None:
    written("per_token")
    content, rng = Path("dump.pt").read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(content[: rng.integers(len(content) + 1)])
        for place in rng.integers(max(1, len(damaged)), size=rng.integers(4)):
            damaged[place : place + 1] = bytes([rng.integers(256)])
        Path("dump.pt").write_bytes(damaged)
        ended = here("import", "sglang", "dump.pt", "--name", "theirs")
        assert ended.code in (0, 2), ended.err
        assert ended.code == 0 or ended.err.count("\n") == 1


def test_a_name_that_no_run_has_is_told(here: Any) -> None:
    ended = here("advise", "nobody")
    assert ended.code == 2
    assert "run='nobody' is not recorded in" in ended.err


def test_an_imported_run_is_listed_reported_and_read_by_the_client(here: Any) -> None:
    """Its steps have gaps, as those of a loop that kept every tenth."""
    np.savez("counts.npz", count_SLE=counted(routes()), top_k=TOP_K, step_S=[10, 20, 30])
    assert here("import", "npz", "counts.npz", "--name", "theirs").code == 0
    (listed,) = here("runs", "--json").document
    assert (listed["run_id"], listed["source"], listed["state"]) == (
        "theirs",
        "import npz",
        "ended",
    )
    reported = here("report", "theirs", "--json")
    assert reported.code == 0, reported.err
    assert Path("theirs.html").stat().st_size > 10_000
    assert reported.document["max_vio"] == pytest.approx(listed["figures"]["max_vio"])
    history = Client(home=HOME).expert_load("theirs")
    assert history.step_S.tolist() == [10, 20, 30]
    assert np.array_equal(history.count_SLE, counted(routes()))
