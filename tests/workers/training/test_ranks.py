"""Compares two processes that train one trial together with one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evenload.pipeline.figures.loads import History
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training import checkpoint
from evenload.workers.training.identity import resolve
from evenload.workers.training.loop import TrainOutcome, checkpoint_dir
from evenload.workers.training.ranks import ALONE, BUCKET_BYTES, _buckets
from tests.workers.attach.test_ranks import alone as attached_alone

STEPS, STOPPED_AT = 12, 5
RULES: dict[str, dict[str, Any]] = {
    "sign": {"kind": "sign", "step_size": 0.01},
    "exact-quantile": {"kind": "quantile", "method": "exact"},
    "self_tuned": {"kind": "self_tuned"},
    "aux-local": {"kind": "aux_loss", "coefficient": 0.05, "scope": "local"},
}
BASE: dict[str, Any] = {
    "model": {
        "preset": "tiny",
        "vocab_size": 32,
        "num_layers": 3,
        "d_model": 32,
        "num_heads": 2,
        "d_dense": 64,
        "num_experts": 8,
        "top_k": 2,
        "d_expert": 16,
    },
    "data": {"kind": "synthetic", "num_tokens": 60_000, "vocab_size": 32, "num_domains": 2},
    "train": {"steps": STEPS, "batch_sequences": 8, "seq_len": 32, "warmup_steps": 2},
    "runtime": {"device": "cpu", "backend": "torch", "log_every": 4, "checkpoint_every": 7},
}


def spec_of(rule: str, workers: int, micro: int | None = None) -> TrialSpec:
    tree = {
        **BASE,
        "balancer": RULES[rule],
        "train": BASE["train"] | {"micro_batch_sequences": micro},
        "runtime": BASE["runtime"] | {"workers": workers},
    }
    return resolve(TrialSpec.model_validate(tree))


def other_model(workers: int, micro: int | None = None) -> TrialSpec:
    """A model of another's code, which needs no library to be imported."""
    spec = spec_of("self_tuned", workers, micro).model_dump(mode="json")
    factory = {"kind": "python", "factory": "tests.other_models:mixture", "vocab_size": 48}
    return resolve(TrialSpec.model_validate(spec | {"model": factory}))


def run_together(
    home: Path, runs: list[tuple[str, TrialSpec, int]], size: int = 2, attached: Sequence[str] = ()
) -> None:
    """Runs all runs and cases in order in the same processes; raises if one fails."""
    jobs = home / "jobs.json"
    home.mkdir(parents=True, exist_ok=True)
    rows = [
        {"digest": digest, "spec": spec.model_dump(mode="json"), "stop_at": stop_at}
        for digest, spec, stop_at in runs
    ]
    rendezvous = home / "rendezvous"
    rendezvous.unlink(missing_ok=True)
    content = {"home": str(home), "rendezvous": str(rendezvous), "runs": rows}
    jobs.write_text(json.dumps(content | {"attached": attached}))
    script = Path(__file__).parent / "rank_process.py"
    root = Path(__file__).parents[3]
    command = [sys.executable, str(script), str(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    processes = [
        subprocess.Popen([*command, str(rank), str(size)], env=environment) for rank in range(size)
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0] * size
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home where two workers trained every rule; one run was stopped and resumed."""
    home = tmp_path_factory.mktemp("ranks") / "home"
    runs = [(rule, spec_of(rule, workers=2), 0) for rule in RULES]
    runs += [("split", spec_of("sign", workers=2, micro=2), 0)]
    runs += [("stopped", spec_of("sign", workers=2), stop_at) for stop_at in (STOPPED_AT, 0)]
    runs += [("other", other_model(workers=2), 0)]
    run_together(home, runs, attached=["ddp"])
    return home


def history_of(home: Path, digest: str) -> History:
    return read_history(Settings(home=home).trial_dir(digest))


def weights_of(home: Path, digest: str) -> dict[str, torch.Tensor]:
    path = checkpoint.newest(checkpoint_dir(Settings(home=home), digest))
    assert path is not None
    assert path.name == f"step-{STEPS:08d}.pt"
    return checkpoint.load(path).model


@pytest.mark.parametrize("rule", RULES)
def test_two_workers_equal_one_that_computes_both_halves_bit_for_bit(
    home: Path, settings: Settings, run_trial: Callable[..., TrainOutcome], rule: str
) -> None:
    """Halving is exact in binary, so the sum of two halves has the same bits in both cases."""
    run_trial(spec_of(rule, workers=1, micro=4), digest=rule)
    one, two = history_of(settings.home, rule), history_of(home, rule)
    assert two.step_S.tolist() == list(range(1, STEPS + 1))
    np.testing.assert_array_equal(two.count_SLE, one.count_SLE)
    np.testing.assert_array_equal(two.bias_SLE, one.bias_SLE)
    for name in ("loss", "balance_loss", "grad_norm", "max_vio_micro", "tokens"):
        np.testing.assert_array_equal(two.scalars[name], one.scalars[name], err_msg=name)
    together, alone = weights_of(home, rule), weights_of(settings.home, rule)
    for name, weight in alone.items():
        assert torch.equal(together[name], weight), name


def test_two_workers_train_a_model_of_others_as_one_does(
    home: Path, settings: Settings, run_trial: Callable[..., TrainOutcome]
) -> None:
    run_trial(other_model(workers=1, micro=4), digest="other")
    one, two = history_of(settings.home, "other"), history_of(home, "other")
    np.testing.assert_array_equal(two.count_SLE, one.count_SLE)
    np.testing.assert_array_equal(two.bias_SLE, one.bias_SLE)
    assert two.bias_SLE[-1].any()


def test_an_attached_model_in_ddp_counts_and_moves_as_in_one_process(home: Path) -> None:
    """Only one case; tests/workers/attach/test_ranks.py has the others."""
    count_NLE, bias_LE = attached_alone(own_bias=False)
    for rank in (0, 1):
        found = torch.load(home / f"ddp-rank{rank}.pt", weights_only=True)
        assert torch.equal(found["counts"], count_NLE)
        assert torch.equal(found["biases"], bias_LE)


def test_two_workers_equal_one_with_the_whole_batch(
    home: Path, settings: Settings, run_trial: Callable[..., TrainOutcome]
) -> None:
    run_trial(spec_of("sign", workers=1), digest="whole")
    one, two = history_of(settings.home, "whole"), history_of(home, "sign")
    np.testing.assert_array_equal(two.count_SLE, one.count_SLE)
    np.testing.assert_array_equal(two.bias_SLE, one.bias_SLE)
    np.testing.assert_allclose(two.scalars["loss"], one.scalars["loss"], rtol=1e-6)


def test_micro_batches_of_two_workers_give_the_counts_of_one(
    home: Path, settings: Settings, run_trial: Callable[..., TrainOutcome]
) -> None:
    run_trial(spec_of("sign", workers=1, micro=2), digest="split")
    one, two = history_of(settings.home, "split"), history_of(home, "split")
    np.testing.assert_array_equal(two.count_SLE, one.count_SLE)
    np.testing.assert_allclose(
        two.scalars["max_vio_micro"], one.scalars["max_vio_micro"], rtol=1e-6
    )


@pytest.mark.parametrize("rule", RULES)
def test_biases_and_weights_are_the_same_on_both_ranks_after_every_step(
    home: Path, rule: str
) -> None:
    first, second = (np.load(home / f"{rule}-rank{rank}.npz") for rank in (0, 1))
    assert len(first["bias_SLE"]) == STEPS
    np.testing.assert_array_equal(first["bias_SLE"], second["bias_SLE"])
    np.testing.assert_array_equal(first["checksum_S"], second["checksum_S"])
    assert len(set(first["checksum_S"].tolist())) == STEPS, "every step must change the checksum"


def test_counts_are_those_of_the_whole_batch_and_only_the_first_rank_has_a_result(
    home: Path,
) -> None:
    train = BASE["train"]
    assignments = train["batch_sequences"] * train["seq_len"] * BASE["model"]["top_k"]
    for rule in RULES:
        assert (history_of(home, rule).count_SLE.sum(axis=-1) == assignments).all()
    first, second = (np.load(home / f"sign-rank{rank}.npz") for rank in (0, 1))
    assert np.isfinite(first["max_vio"])
    assert np.isnan(second["max_vio"])


def test_both_stop_with_the_first_and_resume_as_if_never_stopped(home: Path) -> None:
    whole, stopped = history_of(home, "sign"), history_of(home, "stopped")
    np.testing.assert_array_equal(stopped.step_S, whole.step_S)
    np.testing.assert_array_equal(stopped.count_SLE, whole.count_SLE)
    np.testing.assert_array_equal(stopped.scalars["loss"], whole.scalars["loss"])
    weights = weights_of(home, "stopped")
    for name, weight in weights_of(home, "sign").items():
        assert torch.equal(weights[name], weight), name
    resumed = np.load(home / "stopped-rank1.npz")
    assert len(resumed["bias_SLE"]) == STEPS - STOPPED_AT


def test_with_one_rank_nothing_is_copied_or_sent() -> None:
    value = torch.arange(3)
    assert ALONE.sum(value) is ALONE.mean(value) is ALONE.concatenate(value, dim=0) is value


def test_buckets_keep_order_and_types_and_a_largest_size() -> None:
    small = [torch.zeros(3), torch.zeros(2, 2), torch.zeros(5, dtype=torch.bfloat16)]
    huge = torch.empty(BUCKET_BYTES // 4 + 1, device="meta")
    sizes = [[part.numel() for part in bucket] for bucket in _buckets([*small, huge, huge])]
    assert sizes == [[3, 4], [5], [huge.numel()], [huge.numel()]]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_sequences": 9}, "multiple of 2"),
        ({"batch_sequences": 12, "micro_batch_sequences": 4}, "multiple of 8"),
    ],
)
def test_a_batch_that_workers_cannot_share_evenly_is_refused(
    train: dict[str, int], message: str
) -> None:
    tree = {**BASE, "balancer": RULES["sign"], "runtime": {"workers": 2}}
    with pytest.raises(ValueError, match=message):
        TrialSpec.model_validate(tree | {"train": BASE["train"] | train})
