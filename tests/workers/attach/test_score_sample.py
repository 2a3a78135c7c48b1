"""What `record_scores` of attach keeps, on small models in plain torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import evenload
from evenload.pipeline.records.recorded_runs import recorded_run
from evenload.pipeline.records.scores import read_recording, write_recording
from evenload.workers.attach import AttachError, Balance
from evenload.workers.simulation.advice import advise, estimate
from evenload.workers.simulation.recording import ScoreRecorder
from infra.research.tiny_models import tiny_model
from tests.workers.attach import models
from tests.workers.attach.models import PROBE, dense_layer, model, moe_layer, tokens

STEPS = 64


def attach(attached: nn.Module, path: Any, rule: str = "self_tuned", **options: Any) -> Balance:
    options = {"probe": PROBE, "added_bias": "keep", "record_scores": path, **options}
    return evenload.attach(attached, rule, **options)


class Listener:
    """Notes what the routers score, before anybody selects."""

    def __init__(self, watched: models.Model) -> None:
        self.score_LTE: dict[str, list[Tensor]] = {}
        for name, router in models.routers_of(watched).items():
            self.score_LTE[name] = []
            router.score = self._noting(name, router.score)

    def _noting(self, name: str, score: Any) -> Any:
        def noted(hidden_TD: Tensor) -> Tensor:
            score_TE: Tensor = score(hidden_TD)
            self.score_LTE[name].append(score_TE.detach())
            return score_TE

        return noted

    def forwards(self) -> list[Tensor]:
        """(L, T, E) of every forward since the last call."""
        layers = list(self.score_LTE.values())
        found = [torch.stack(scores) for scores in zip(*layers, strict=True)]
        for scores in layers:
            scores.clear()
        return found


def train(trained: models.Model, steps: int, balance: Balance | None = None, **given: Any) -> None:
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    for step in range(steps):
        trained.loss(tokens(seed=step), **given).backward()
        optimizer.step()
        optimizer.zero_grad()
        if balance is not None:
            balance.step()


@pytest.mark.parametrize("rule", ["self_tuned", "none"])
@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_recorded_scores_are_those_the_router_produced(
    tmp_path: Path, own_bias: bool, rule: str
) -> None:
    trained = model(own_bias=own_bias)
    if own_bias:
        for router in models.routers_of(trained).values():
            router.e_score_correction_bias += torch.randn(8) * 0.1
    biases = []
    listener = Listener(trained)
    path = {"path": tmp_path / "scores.npz", "tokens": 40, "steps": STEPS}
    balance = attach(trained, path, rule, recorder=lambda step, count, bias: biases.append(bias))
    listener.forwards()
    train(trained, STEPS, balance)
    found = read_recording(tmp_path / "scores.npz")
    expected = torch.stack([score_LTE[:, :40] for score_LTE in listener.forwards()]).numpy()
    if own_bias:  # its top-k gets score plus bias, which is rounded
        assert np.abs(found.score_NLTE - expected).max() < 1e-6
    else:
        assert np.array_equal(found.score_NLTE, expected)
    if rule != "none":
        assert np.array_equal(found.bias_NLE, torch.stack(biases).numpy())
        assert np.abs(found.bias_NLE[-1]).max() > 1e-3, "the biases must have moved"
    assert (found.top_k, found.every, found.step_tokens) == (2, 1, 64)
    assert found.unit == "probability"


def test_advice_is_that_for_the_same_scores_of_the_own_model(tmp_path: Path) -> None:
    trained = model()
    listener = Listener(trained)
    balance = attach(trained, {"path": tmp_path / "a.npz", "steps": STEPS})
    listener.forwards()
    train(trained, STEPS, balance)
    recorder = ScoreRecorder(top_k=2)
    for score_LTE in listener.forwards():
        output: Any = SimpleNamespace(routed=[SimpleNamespace(score_TE=each) for each in score_LTE])
        recorder(0, output, torch.zeros(2, 8))
    write_recording(tmp_path / "own.npz", recorder.recording())
    for layer in range(2):
        advice = [
            advise(estimate(read_recording(tmp_path / name), layer), 500)
            for name in ("a.npz", "own.npz")
        ]
        assert advice[0] == advice[1]


def test_a_sample_takes_every_other_step_over_micro_batches_without_padding(
    tmp_path: Path,
) -> None:
    trained = model(1)
    listener = Listener(trained)
    asked = {"path": tmp_path, "tokens": 20, "steps": STEPS, "every": 2}
    balance = attach(trained, asked)
    listener.forwards()
    mask_BS = torch.ones(1, 16, dtype=torch.long)
    mask_BS[0, 12:] = 0
    expected = []
    for step in range(2 * STEPS):
        for piece in range(3):
            trained.loss(tokens(1, 16, seed=10 * step + piece), mask_BS).backward()
        balance.step()
        parts = [score_LTE[:, :12] for score_LTE in listener.forwards()]
        if step % 2 == 0:
            expected.append(torch.cat(parts, dim=1)[:, :20])
    found = read_recording(tmp_path)
    assert np.array_equal(found.score_NLTE, torch.stack(expected).numpy())
    assert found.every == 2
    assert found.step_tokens == 36
    assert found.sampled == pytest.approx(20 / 36)


def test_steps_with_too_few_tokens_are_left_out(tmp_path: Path) -> None:
    trained = model(1)
    balance = attach(trained, {"path": tmp_path, "steps": STEPS})
    for step in range(STEPS):
        trained.loss(tokens(1, 4 if step == 5 else 16, seed=step)).backward()
        balance.step()
    assert read_recording(tmp_path).score_NLTE.shape == (STEPS - 1, 1, 16, 8)


def test_recording_ends_and_is_written_once_it_has_its_steps(tmp_path: Path) -> None:
    trained = model()
    balance = attach(trained, {"path": tmp_path, "steps": STEPS})
    train(trained, STEPS - 1, balance)
    assert not (tmp_path / "scores.npz").exists()
    train(trained, 1, balance)
    written = (tmp_path / "scores.npz").stat().st_mtime_ns
    train(trained, 3, balance)
    balance.detach()
    assert (tmp_path / "scores.npz").stat().st_mtime_ns == written
    assert len(read_recording(tmp_path).score_NLTE) == STEPS


def test_what_is_recorded_is_written_on_request_and_when_the_session_ends(tmp_path: Path) -> None:
    trained = model()
    balance = attach(trained, tmp_path / "scores.npz")
    with pytest.raises(AttachError, match="no scores are recorded yet: train first"):
        balance.write_scores()
    train(trained, 2, balance)
    assert len(read_recording(balance.write_scores()).score_NLTE) == 2
    train(trained, 1, balance)
    balance.detach()
    assert len(read_recording(tmp_path / "scores.npz").score_NLTE) == 3
    with pytest.raises(AttachError, match="call attach"):
        attach(trained, None).write_scores()


def test_an_exception_half_way_and_evaluation_leave_no_scores(tmp_path: Path) -> None:
    trained = model()
    listener = Listener(trained)
    balance = attach(trained, tmp_path)
    trained.head.register_forward_pre_hook(_fail_once())
    with pytest.raises(RuntimeError, match="out of memory"):
        trained.loss(tokens(seed=7))
    with torch.no_grad():
        trained.loss(tokens(seed=8))
    listener.forwards()
    train(trained, 1, balance)
    found = read_recording(balance.write_scores())
    assert np.array_equal(found.score_NLTE[0], listener.forwards()[0].numpy())


def _fail_once() -> Any:
    left = [RuntimeError("out of memory")]

    def hook(module: nn.Module, args: Any) -> None:
        if left:
            raise left.pop()

    return hook


def test_no_failure_of_the_disk_stops_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError("no space left")

    trained = model()
    balance = attach(trained, {"path": tmp_path, "steps": STEPS})
    monkeypatch.setattr("evenload.pipeline.records.scores.write_recording", full)
    train(trained, STEPS + 3, balance)
    assert balance.steps == STEPS + 3
    assert "router scores are no longer recorded, training goes on" in caplog.text
    assert caplog.text.count("no space left") == 1
    balance.detach()


def test_scores_are_not_looked_at_unless_they_are_recorded(tmp_path: Path) -> None:
    """The outputs and biases are those without recording, bit for bit."""
    ends = []
    for path in (None, tmp_path):
        trained = model()
        balance = attach(trained, path)
        train(trained, 3, balance)
        ends.append([*trained.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evenload.pipeline.records.scores.MAX_BYTES", 4 * STEPS * 2 * 8 * 5)
    trained = model()
    balance = attach(trained, {"path": tmp_path, "steps": STEPS})
    train(trained, 1, balance)
    assert read_recording(balance.write_scores()).score_NLTE.shape == (1, 2, 5, 8)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"path": "a.npz", "steps": 63}, "record_scores: steps=63: .*greater than or equal to 64"),
        ({"path": "a.npz", "token": 3}, "record_scores: token=3: unknown key"),
        ({"tokens": 3}, "record_scores: pass a path, or name= of a run that will hold them"),
        (True, "record_scores: pass a path, or name= of a run that will hold them"),
        (7, "record_scores: path=7"),
        ("/dev/null/a.npz", "record_scores: /dev/null/a.npz: File exists; give another path"),
    ],
)
def test_what_cannot_be_asked_is_refused(asked: Any, said: str) -> None:
    attached = model()
    with pytest.raises(AttachError, match=said):
        attach(attached, asked)
    attach(attached, None)


def test_a_recorded_run_holds_its_scores(tmp_path: Path) -> None:
    trained = model()
    balance = attach(trained, {"steps": STEPS}, name="Their model", home=tmp_path)
    train(trained, STEPS, balance)
    balance.detach()
    run = recorded_run(tmp_path, "Their model")
    assert len(read_recording(run.folder).score_NLTE) == STEPS
    short = model()
    balance = attach(short, True, name="short", home=tmp_path)
    train(short, 2, balance)
    balance.detach()
    assert len(read_recording(recorded_run(tmp_path, "short").folder).score_NLTE) == 2


def test_layers_of_two_sizes_are_refused_and_can_be_chosen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    attached = models.Model([moe_layer(), dense_layer(), moe_layer(12, 3)])
    said = r"layers.2.mlp.gate has top 3 of 12 on a probability, .* pass routers= of one kind"
    with pytest.raises(AttachError, match=said):
        attach(attached, tmp_path)
    balance = attach(attached, tmp_path, routers=[attached.layers[2].mlp.gate])
    train(attached, 1, balance)
    assert read_recording(balance.write_scores()).score_NLTE.shape == (1, 1, 64, 12)


def test_the_command_reads_a_runs_folder(tmp_path: Path) -> None:
    trained = model()
    balance = attach(trained, {"path": tmp_path, "steps": STEPS})
    train(trained, STEPS, balance)
    code = "from evenload.workers.cli import main; main()"
    command = [sys.executable, "-c", code, "advise", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    expected = estimate(read_recording(tmp_path), 0)
    assert document["seen"]["noise"] == pytest.approx(expected.noise)
    assert document["seen"]["unit"] == "probability"


@pytest.mark.parametrize(
    ("kind", "score", "unit"),
    [
        ("qwen3_moe", lambda logit: logit.float().softmax(dim=-1), "probability"),
        ("gpt_oss", lambda logit: logit.float(), "logit"),
        ("deepseek_v3", lambda logit: logit.float().sigmoid(), "probability"),
    ],
)
def test_scores_of_hugging_face_models_follow_from_their_routers_logits(
    tmp_path: Path, kind: str, score: Callable[[Tensor], Tensor], unit: str
) -> None:
    pytest.importorskip("transformers")
    trained: Any = tiny_model(kind, num_hidden_layers=2)
    path = {"path": tmp_path, "steps": STEPS}
    balance = evenload.attach(trained, "self_tuned", added_bias="keep", record_scores=path)
    logits: list[Tensor] = []
    for layer in balance.layers:
        layer.router.module.register_forward_hook(lambda _, args, out: logits.append(out[0]))
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    balance.watch(optimizer)
    for step in range(3):
        token_BS = tokens(2, 16, seed=step)
        trained(input_ids=token_BS, labels=token_BS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = read_recording(balance.write_scores())
    expected = torch.stack([score(logit.detach()).flatten(0, -2) for logit in logits])
    assert found.unit == unit
    assert np.abs(found.bias_NLE[-1]).max() > 0
    shape = (3, len(balance.layers), 32, expected.shape[-1])
    assert np.abs(found.score_NLTE - expected.view(shape).numpy()).max() < 1e-6
