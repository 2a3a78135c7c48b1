from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evenload.pipeline.figures.evaluation import specialisation
from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.run import EvalRecord, RunIdentity
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.data import Synthetic
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.data.corpus import Corpus, prepare
from evenload.workers.data.shards import even_windows
from evenload.workers.data.synthetic import synthetic_documents
from evenload.workers.training import checkpoint
from evenload.workers.training.evaluate import evaluate
from evenload.workers.training.loop import TrainOutcome
from evenload.workers.training.scoring import Scores, scorer_of
from evenload.workers.training.setup import Assembly, assemble

DIGEST = "0123456789abcdef"


def score(spec: TrialSpec, assembly: Assembly, bias_LE: Tensor, corpus: Corpus) -> Scores:
    """Mean loss and loads over the held-out set with this bias, which stays fixed."""
    scorer = scorer_of(assembly, bias_LE, spec.eval.batch_sequences)
    return scorer.score(even_windows(corpus.validation, spec.train.seq_len, spec.eval.tokens))


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


@pytest.fixture
def record_of(settings: Settings) -> Callable[..., tuple[EvalRecord, dict[str, float]]]:
    """The record and the result of evaluating a trained trial."""

    def of(spec: TrialSpec, outcome: TrainOutcome) -> tuple[EvalRecord, dict[str, float]]:
        sink = EvalSink()
        result = evaluate(
            spec,
            settings=settings,
            digest=DIGEST,
            checkpoint_uri=outcome.checkpoint_uri,
            sink=sink,  # type: ignore[arg-type]
            run=RunIdentity(DIGEST, "t", None, 1, spec.model_dump(mode="json")),
        )
        assert sink.record is not None
        return sink.record, result

    return of


def test_each_domain_is_scored_on_its_own_documents(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    record_of: Callable[..., tuple[EvalRecord, dict[str, float]]],
    settings: Settings,
) -> None:
    spec = make_spec(
        data={"num_domains": 3, "validation_share": 0.2},
        train={"steps": 10},
        eval={"group_tokens": 1024, "routes": False, "by_k": "none"},
    )
    outcome = run_trial(spec)
    record, result = record_of(spec, outcome)
    groups = record.detail.groups
    assert groups is not None
    assert sorted(groups.name_G) == ["domain-0", "domain-1", "domain-2"]
    assert record.detail.routes is None
    assert record.detail.by_k is None

    assembly = assemble(spec)
    saved = checkpoint.load(settings.path_of(outcome.checkpoint_uri))
    assembly.trainee.model.load_state_dict(saved.model)
    scorer = scorer_of(assembly, saved.balancer["bias_LE"], 4)
    assert isinstance(spec.data, Synthetic)
    document_NT, domain_N = synthetic_documents(spec.data)
    held_out_N = np.arange(len(document_NT)) < round(len(document_NT) * 0.2)
    for row, name in enumerate(groups.name_G):
        domain = int(name.removeprefix("domain-"))
        stream = document_NT[held_out_N & (domain_N == domain)].ravel()
        window_NS = even_windows(stream, 32, len(stream))
        expected = scorer.score(window_NS[np.arange(32) * len(window_NS) // 32])
        assert groups.loss_G[row] == expected.loss
        assert groups.count_GLE[row].tolist() == expected.count_LE.tolist()
    assert groups.tokens_G.tolist() == [1024] * 3
    assert result["val_bits_per_byte_worst_group"] == groups.loss_G.max() / math.log(2)
    by_layer = [specialisation(groups.count_GLE[:, layer]) for layer in (0, 1)]
    assert result["specialisation"] == pytest.approx(np.mean(by_layer))


def test_imbalance_on_held_out_text_is_judged_by_the_target(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    record_of: Callable[..., tuple[EvalRecord, dict[str, float]]],
) -> None:
    target = (0.3, *[0.1] * 7)
    spec = make_spec(train={"steps": 3}, balancer={"kind": "sign", "target": target})
    record, result = record_of(spec, run_trial(spec))
    assert result["max_vio_global"] == pytest.approx(max_vio(record.count_LE, target).mean())
    assert abs(max_vio(record.count_LE).mean() - result["max_vio_global"]) > 0.1


def test_the_parts_of_a_record_agree(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    record_of: Callable[..., tuple[EvalRecord, dict[str, float]]],
) -> None:
    """On the same tokens, the whole set, k = K and the pairs of experts must agree."""
    spec = make_spec(train={"steps": 10}, eval={"by_k_tokens": 1024})
    record, _ = record_of(spec, run_trial(spec))
    by_k, routes = record.detail.by_k, record.detail.routes
    assert by_k is not None
    assert routes is not None
    (row,) = [row for row, k in enumerate(by_k.k_N) if k == spec.model.top_k]
    assert by_k.loss_N[row] == record.loss
    assert (by_k.count_NLE[row] == record.count_LE).all()
    assert (routes.together_LEE.diagonal(axis1=1, axis2=2) == record.count_LE).all()
    assert (routes.onward_LEE.sum(axis=2) == 2 * record.count_LE[:-1]).all()
    assert (routes.onward_LEE.sum(axis=1) == 2 * record.count_LE[1:]).all()


def test_a_corpus_of_one_group_has_no_specialisation(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    record_of: Callable[..., tuple[EvalRecord, dict[str, float]]],
) -> None:
    spec = make_spec(data={"num_domains": 1}, train={"steps": 1}, eval={"by_k": "none"})
    record, result = record_of(spec, run_trial(spec))
    assert record.detail.groups is not None
    assert record.detail.groups.name_G == ("domain-0",)
    assert "specialisation" not in result


def test_a_checkpoint_whose_biases_are_not_finite_is_not_scored(
    make_spec: Callable[..., TrialSpec],
    run_trial: Callable[..., TrainOutcome],
    record_of: Callable[..., tuple[EvalRecord, dict[str, float]]],
    settings: Settings,
) -> None:
    spec = make_spec(train={"steps": 2})
    outcome = run_trial(spec)
    path = settings.path_of(outcome.checkpoint_uri)
    saved = torch.load(path, weights_only=True)
    saved["balancer"]["bias_LE"][0, 0] = float("nan")
    torch.save(saved, path)
    with pytest.raises(FloatingPointError, match="step 2: biases of expert layers"):
        record_of(spec, outcome)
