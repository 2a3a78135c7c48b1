"""Models of others train by the same loop: counts, biases, resume, evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import evenload
from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.evaluation_arrays import read_by_k, read_routes
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress, TrialState
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import Batches
from evenload.workers.training import checkpoint
from evenload.workers.training.evaluate import evaluate
from evenload.workers.training.identity import resolve
from evenload.workers.training.loop import TrainOutcome, checkpoint_dir
from evenload.workers.training.setup import adamw, assemble, trainable_weights
from tests.other_models import folder_of
from tests.workers.training.test_ranks import run_together

Run = Callable[..., TrainOutcome]
DIGEST = "0123456789abcdef"
FAMILIES = ("qwen3_moe", "deepseek_v3", "mixtral", "gpt_oss")


@pytest.fixture
def trial_of(tmp_path: Path) -> Callable[..., TrialSpec]:
    """Makes a resolved trial of a tiny model of another's code."""

    def make(kind: str, balancer: str = "sign", train: Any = None, **model: Any) -> TrialSpec:
        if kind == "python":
            asked = {"kind": "python", "factory": "tests.other_models:mixture", "vocab_size": 48}
        else:
            path = tmp_path / kind
            asked = {"kind": "huggingface", "path": path}
            if not path.exists():
                folder_of(kind, path)
        return resolve(
            TrialSpec.model_validate(
                {
                    "model": asked | model,
                    "data": {"kind": "synthetic", "num_tokens": 60_000, "vocab_size": 32},
                    "balancer": {"kind": balancer},
                    "train": {"steps": 8, "batch_sequences": 4, "seq_len": 16, **(train or {})},
                    "eval": {"tokens": 512, "batch_sequences": 4, "by_k_tokens": 256},
                    "runtime": {"device": "cpu", "checkpoint_every": 3},
                }
            )
        )

    return make


@pytest.mark.parametrize("kind", [*FAMILIES, "python"])
def test_a_stopped_run_goes_on_bit_for_bit(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings, kind: str
) -> None:
    spec = trial_of(kind, "self_tuned", {"micro_batch_sequences": 2})

    def until_five(progress: Progress) -> Command:
        return Command.STOP if progress.step == 5 else Command.CONTINUE

    whole = run_trial(spec, digest="whole")
    stopped = run_trial(spec, until_five, digest="parts")
    assert (whole.state, stopped.state) == (TrialState.TRAINED, TrialState.QUEUED)
    run_trial(spec, digest="parts")
    one, two = (read_history(settings.trial_dir(name)) for name in ("whole", "parts"))
    assert one.step_S.tolist() == list(range(1, 9))
    assert np.array_equal(one.count_SLE, two.count_SLE)
    assert np.array_equal(one.bias_SLE, two.bias_SLE)
    assert np.array_equal(one.scalars["loss"], two.scalars["loss"])
    ends = [
        checkpoint.load(checkpoint_dir(settings, name) / "step-00000008.pt")
        for name in ("whole", "parts")
    ]
    assert ends[0].model.keys() == ends[1].model.keys()
    for name, weight in ends[0].model.items():
        assert torch.equal(weight, ends[1].model[name]), name
    assert (one.count_SLE.sum(axis=-1) == 4 * 16 * 2).all()
    assert one.bias_SLE[-1].any()


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "python"])
def test_the_rule_evens_the_load(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings, kind: str
) -> None:
    figures = {}
    for rule in ("none", "self_tuned"):
        run_trial(trial_of(kind, rule, {"steps": 40, "learning_rate": 1e-3}), digest=rule)
        count_LE = read_history(settings.trial_dir(rule)).count_SLE[-20:].sum(axis=0)
        figures[rule] = float((count_LE.max(axis=-1) / count_LE.mean(axis=-1)).mean()) - 1
    assert figures["self_tuned"] < 0.6 * figures["none"]


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "python"])
def test_the_evaluation_has_what_the_own_model_has(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings, kind: str
) -> None:
    spec = trial_of(kind, "quantile")
    outcome = run_trial(spec)
    sink = LoadLogSink(settings.trial_dir(DIGEST))
    figures = evaluate(
        spec,
        settings=settings,
        digest=DIGEST,
        checkpoint_uri=outcome.checkpoint_uri,
        sink=sink,
        run=RunIdentity(DIGEST, "evaluation", None, 1, spec.model_dump(mode="json")),
    )
    sink.close()
    assert math.isfinite(figures["val_bits_per_byte"])
    assert 2 < figures["val_loss"] < math.log(48) + 1
    routes, by_k = (read(settings.trial_dir(DIGEST)) for read in (read_routes, read_by_k))
    assert routes is not None
    assert routes.together_LEE.shape == (2, 8, 8)
    if kind == "deepseek_v3":  # more experts would leave their groups
        assert by_k is None
        return
    assert by_k is not None
    assert by_k.k_N.tolist() == [1, 2, 4, 8]
    assert (by_k.count_NLE.sum(axis=-1) == 256 * by_k.k_N[:, None]).all()
    assert (by_k.count_NLE[-1] == 256).all()
    assert len(set(by_k.loss_N.tolist())) == 4


def test_the_loss_that_balances_reaches_the_router(trial_of: Callable[..., TrialSpec]) -> None:
    for kind in ("mixtral", "deepseek_v3", "python"):
        assembly = assemble(trial_of(kind, "aux_loss"))
        trainee, token_BS = assembly.trainee, torch.arange(32).view(2, 16)
        output = trainee.model(token_BS, assembly.state.bias_LE)
        score_TE = output.routed[0].score_TE
        (router, *_) = trainee.model.routers()
        (slope,) = torch.autograd.grad(score_TE[:, 0].sum(), next(router.parameters()))
        assert score_TE.shape == (32, 8)
        assert slope.abs().max() > 0


def test_a_frozen_router_stays_and_the_rest_learns(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings
) -> None:
    spec = trial_of("mixtral", "sign", freeze="router")
    start = assemble(spec).trainee.model.state_dict()
    run_trial(spec)
    end = checkpoint.load(checkpoint_dir(settings, DIGEST) / "step-00000008.pt").model
    same = {name for name, weight in start.items() if torch.equal(weight, end[name])}
    assert same == {f"module.model.layers.{layer}.mlp.gate.weight" for layer in (0, 1)}


def test_recomputation_changes_neither_counts_nor_losses(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings
) -> None:
    histories = []
    for name, recompute in (("kept", False), ("again", True)):
        for kind in ("qwen3_moe", "deepseek_v3"):
            digest = f"{kind}-{name}"
            run_trial(trial_of(kind, "self_tuned", {"recompute": recompute}), digest=digest)
            histories.append(read_history(settings.trial_dir(digest)))
    for kept, again in zip(histories[:2], histories[2:], strict=True):
        assert np.array_equal(kept.count_SLE, again.count_SLE)
        assert np.array_equal(kept.scalars["loss"], again.scalars["loss"])


def test_training_starts_from_the_weights_and_the_bias_of_the_folder(
    trial_of: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    folder = folder_of("deepseek_v3", tmp_path / "trained")
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder)
    trained = transformers.AutoModelForCausalLM.from_config(config)
    gate = trained.model.layers[1].mlp.gate
    gate.e_score_correction_bias.copy_(torch.linspace(-0.1, 0.1, 8))
    trained.save_pretrained(folder)
    spec = trial_of("deepseek_v3", "none", path=folder, weights=True)
    assembly = assemble(spec)
    model, bias_LE = assembly.trainee.model, assembly.state.bias_LE
    assert torch.equal(bias_LE[0], torch.linspace(-0.1, 0.1, 8))
    assert not bias_LE[1].any()
    token_BS = torch.arange(32).view(2, 16)
    with torch.no_grad():
        ours = model(token_BS, bias_LE).logits_BSV
        assert torch.equal(ours, trained.eval()(input_ids=token_BS).logits)
        shifted_LE = bias_LE + torch.tensor([0.0] * 7 + [9.0])
        moved = model(token_BS, shifted_LE)
    assert moved.routed[0].count_E[7] == 32
    assert not torch.equal(moved.logits_BSV, ours)


def test_a_folder_that_changed_since_the_plan_is_refused(
    trial_of: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    spec = trial_of("mixtral")
    folder_of("mixtral", tmp_path / "mixtral", rms_norm_eps=1e-3)
    with pytest.raises(SpecError, match=r"mixtral' has changed since the trial was planned"):
        assemble(spec)


def test_weights_that_do_not_fit_the_asked_sizes_are_refused(
    trial_of: Callable[..., TrialSpec], tmp_path: Path
) -> None:
    folder = folder_of("mixtral", tmp_path / "trained")
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    spec = trial_of("mixtral", path=folder, weights=True, config={"num_hidden_layers": 3})
    with pytest.raises(SpecError, match=r"the weights lack .* and \d+ more; set model\.weights"):
        assemble(spec)


def test_bfloat16_weights_keep_a_float32_bias(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings
) -> None:
    run_trial(trial_of("deepseek_v3", "sign", dtype="bfloat16"))
    saved = checkpoint.load(checkpoint_dir(settings, DIGEST) / "step-00000008.pt")
    bias_E = saved.model["module.model.layers.1.mlp.gate.e_score_correction_bias"]
    assert bias_E.dtype == torch.float32
    assert saved.model["module.lm_head.weight"].dtype == torch.bfloat16
    # The bias of the last step routed it; the one in the state is for the next step.
    assert (bias_E - saved.balancer["bias_LE"][0]).abs().max() <= 2.1e-3


@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3"])
def test_a_sweep_moves_the_biases_as_attach_does(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings, kind: str
) -> None:
    spec = trial_of(kind, "self_tuned", {"schedule": "constant"})
    run_trial(spec)
    torch.manual_seed(spec.train.seed)
    config = transformers.AutoConfig.from_pretrained(spec.model.path)
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    optimizer = adamw(spec.train, trainable_weights(model))
    balance = evenload.attach(model, "self_tuned", added_bias="keep").watch(optimizer)
    batches = Batches(prepare(spec.data, settings.corpus_dir).train, spec.train.seq_len, 0)
    biases, losses = [], []
    for step in range(spec.train.steps):
        token_BS = torch.from_numpy(batches.take(step * 4, 4))
        biases.append(torch.stack(list(balance.biases().values())).clone())
        logits_BSV = model(input_ids=token_BS[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BSV.flatten(0, 1), token_BS[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.train.grad_clip)
        optimizer.step()
        losses.append(loss.item())
    history = read_history(settings.trial_dir(DIGEST))
    assert np.array_equal(history.bias_SLE, torch.stack(biases).numpy())
    assert history.bias_SLE[-1].any()
    assert history.scalars["loss"].tolist() == losses


@pytest.mark.slow
def test_two_workers_agree_and_equal_one_bit_for_bit(
    trial_of: Callable[..., TrialSpec], run_trial: Run, settings: Settings
) -> None:
    """Both kinds in one start of the two processes, which takes longer than the training."""
    alone, together = {}, []
    for kind in ("qwen3_moe", "deepseek_v3"):
        alone[kind] = trial_of(kind, "self_tuned", {"micro_batch_sequences": 2})
        runtime = alone[kind].runtime.model_copy(update={"workers": 2})
        together.append((kind, alone[kind].model_copy(update={"runtime": runtime}), 0))
    run_together(settings.root, together)
    for kind, spec in alone.items():
        ranks = [np.load(settings.root / f"{kind}-rank{rank}.npz") for rank in (0, 1)]
        assert np.array_equal(ranks[0]["bias_SLE"], ranks[1]["bias_SLE"]), kind
        assert np.array_equal(ranks[0]["checksum_S"], ranks[1]["checksum_S"]), kind
        run_trial(spec, digest=f"{kind}-alone")
        one, two = (read_history(settings.trial_dir(run)) for run in (f"{kind}-alone", kind))
        assert np.array_equal(one.count_SLE, two.count_SLE), kind
        assert np.array_equal(one.bias_SLE, two.bias_SLE), kind
