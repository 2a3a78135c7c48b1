from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pipeline.records import EvalRecord, RunIdentity
from pipeline.settings import Settings
from pipeline.spec import TrialSpec
from workers.data.corpus import prepare
from workers.training.evaluate import evaluate, score
from workers.training.loop import TrainOutcome
from workers.training.setup import assemble

DIGEST = "0123456789abcdef"


class EvalSink:
    errors = 0

    def __init__(self) -> None:
        self.record: EvalRecord | None = None

    def start(self, run: RunIdentity) -> None: ...

    def log_eval(self, record: EvalRecord) -> None:
        self.record = record


def test_a_trained_model_beats_uniform_guessing_and_figures_agree(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    settings: Settings,
) -> None:
    spec = make_spec(train={"steps": 60, "learning_rate": 0.01})
    outcome = run_trial(spec)
    sink = EvalSink()
    identity = RunIdentity(DIGEST, "t", None, 1, spec.model_dump(mode="json"))
    result = evaluate(
        spec,
        settings=settings,
        digest=DIGEST,
        checkpoint_uri=outcome.checkpoint_uri,
        sink=sink,  # type: ignore[arg-type]
        run=identity,
    )
    assert result["val_loss"] < math.log(32) - 0.5
    assert result["val_bits_per_byte"] == pytest.approx(result["val_loss"] / math.log(2))
    assert result["val_perplexity"] == pytest.approx(math.exp(result["val_loss"]))
    assert result["eval_tokens"] == 1024
    assert sink.record is not None
    assert sink.record.count_LE.sum(axis=-1).tolist() == [1024 * 2] * 2


def test_evaluation_leaves_bias_weights_and_random_state_untouched(
    make_spec: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    spec = make_spec()
    assembly = assemble(spec)
    bias_LE = torch.randn(2, 8)
    before = (bias_LE.clone(), torch.get_rng_state())
    weights = {name: w.clone() for name, w in assembly.trainee.model.state_dict().items()}
    first = score(spec, assembly, bias_LE, prepare(spec.data, tmp_path))
    second = score(spec, assembly, bias_LE, prepare(spec.data, tmp_path))
    assert torch.equal(bias_LE, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    for name, weight in assembly.trainee.model.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert first.loss == second.loss
    assert torch.equal(first.count_LE, second.count_LE)


def test_the_batch_size_of_an_evaluation_does_not_matter(
    make_spec: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    losses = []
    for size in (1, 5, 32):
        spec = make_spec(eval={"tokens": 1024, "batch_sequences": size})
        scores = score(spec, assemble(spec), torch.zeros(2, 8), prepare(spec.data, tmp_path))
        losses.append(scores.loss)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)
