"""Letters: N steps, L layers, T tokens, E experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evenload.pipeline.records.scores import Recording, read_recording
from evenload.pipeline.spec.simulation import Recorded
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.simulation.score_streams import Size
from evenload.workers.simulation.theory_checks import Transition, identity
from infra.research.recorded_training import record, train_steps, transitions
from infra.research.tuned_comparison import compare, rule

TRIAL = TrialSpec.model_validate(
    {
        "model": {"preset": "tiny", "d_model": 32, "num_experts": 8, "top_k": 2, "d_expert": 16},
        "data": {"kind": "synthetic", "num_tokens": 20_000},
        "train": {"steps": 6, "batch_sequences": 4, "seq_len": 32},
        "balancer": {"kind": "self_tuned"},
    }
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recording")
    return record(TRIAL, folder / "run.npz", corpus_dir=folder / "corpus", tokens=128)


def test_a_recording_has_the_scores_and_biases_of_every_step(recording: Path) -> None:
    found = read_recording(recording)
    assert found.score_NLTE.shape == (6, 2, 128, 8)
    assert found.bias_NLE.shape == (6, 2, 8)
    assert found.top_k == 2
    assert ((found.score_NLTE > 0) & (found.score_NLTE < 1)).all()
    assert (found.bias_NLE[0] == 0).all()
    assert np.abs(found.bias_NLE[1:]).max() > 0


def test_counts_follow_from_recorded_scores_and_biases(tmp_path: Path, recording: Path) -> None:
    found = read_recording(recording)
    for step, seen in enumerate(train_steps(TRIAL, recording.parent / "corpus")):
        biased = torch.from_numpy(found.score_NLTE[step] + found.bias_NLE[step][:, None])
        for layer in range(2):
            chosen = biased[layer].topk(2).indices.flatten().bincount(minlength=8)
            assert torch.equal(chosen, seen.count_LE[layer])


def test_the_same_trial_records_the_same_scores(tmp_path: Path, recording: Path) -> None:
    again = record(
        TRIAL, tmp_path / "again.npz", corpus_dir=recording.parent / "corpus", tokens=128
    )
    assert np.array_equal(read_recording(again).score_NLTE, read_recording(recording).score_NLTE)


def test_a_recording_is_replayed_under_another_rule(recording: Path) -> None:
    size = Size(seeds=2, tokens=128, experts=8, steps=6)
    contenders = {"none": rule("none", 2)}
    tuned = {"quantile": rule("quantile", 2)}
    scores = compare(contenders, tuned, Recorded(path=recording), size, 2)
    assert [score.rule for score in scores] == ["none", "quantile"]
    assert scores[0].over_tuned > 0


def test_theory_is_checked_on_recorded_updates(recording: Path) -> None:
    found: Recording = read_recording(recording)
    updates = transitions(found, layer=1)
    assert len(updates) == 5
    assert torch.equal(updates[1].next_bias_E, torch.from_numpy(found.bias_NLE[2, 1]))
    doubles = [[value.double() for value in update[:4]] for update in updates]
    cases = [Transition(*values, 2) for values in doubles]
    verdict = identity(cases)
    assert verdict.finding == "holds in all 5"
