"""Real scores: a small training run whose routers are listened to.

A recording keeps the gate scores of the first tokens of every step and the biases that routed
them; it is replayed under any rule by the stream `recorded`. What a replay cannot show is how
another rule would have changed the router.

Letters: N steps, L expert layers, T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import Balancer, Observation
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import Batches
from evenload.workers.model.transformer import ModelOutput, MoELanguageModel
from evenload.workers.simulation.score_streams import NO_RECORDING, UNREADABLE
from evenload.workers.simulation.theory_checks import Transition


class TrainedStep(NamedTuple):
    loss: float  # nats per token
    score_LTE: Tensor
    count_LE: Tensor
    bias_LE: Tensor  # the bias that routed this step


class Recording(NamedTuple):
    score_NLTE: NDArray[np.float32]
    bias_NLE: NDArray[np.float32]
    top_k: int


class ScoreRecorder:
    """Listens to a training loop: the scores of every step's first `tokens` tokens, and the bias.

    Of a step with several micro-batches the first one is kept.
    """

    def __init__(self, top_k: int, tokens: int = 1024) -> None:
        self._top_k = top_k
        self._tokens = tokens
        self._score_NLTE: list[NDArray[np.float32]] = []
        self._bias_NLE: list[NDArray[np.float32]] = []

    def __call__(self, place: int, output: ModelOutput, bias_LE: Tensor) -> None:
        if place > 0:
            return
        score_LTE = torch.stack([routed.score_TE[: self._tokens] for routed in output.routed])
        self._score_NLTE.append(score_LTE.detach().float().cpu().numpy())
        self._bias_NLE.append(bias_LE.float().cpu().numpy())

    @property
    def num_steps(self) -> int:
        return len(self._score_NLTE)

    def recording(self) -> Recording:
        """What was heard, of at least one step."""
        return Recording(np.stack(self._score_NLTE), np.stack(self._bias_NLE), self._top_k)


def record(trial: TrialSpec, path: Path, *, corpus_dir: Path, tokens: int = 1024) -> Path:
    """Trains the trial's model and writes the scores of every step's first `tokens` tokens."""
    steps = list(train_steps(trial, corpus_dir))
    recording = Recording(
        np.stack([step.score_LTE[:, :tokens].numpy() for step in steps]),
        np.stack([step.bias_LE.numpy() for step in steps]),
        trial.model.top_k,
    )
    return write_recording(path, recording)


def write_recording(path: Path, recording: Recording) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            score_NLTE=recording.score_NLTE,
            bias_NLE=recording.bias_NLE,
            top_k=np.array(recording.top_k),
        )
    return path


def read_recording(path: Path) -> Recording:
    """What `write_recording` wrote.  Raises: SpecError: no such file, or no recording"""
    try:
        with path.open("rb") as file, np.load(file) as content:
            return Recording(content["score_NLTE"], content["bias_NLE"], int(content["top_k"]))
    except UNREADABLE:
        raise SpecError(f"{path}: {NO_RECORDING}") from None


def train_steps(trial: TrialSpec, corpus_dir: Path) -> Iterator[TrainedStep]:
    """Trains on the CPU as the trial says, one micro-batch a step, without an auxiliary loss."""
    train = trial.train
    torch.manual_seed(train.seed)
    model = MoELanguageModel(trial.model, "torch")
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        weight_decay=train.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, train.steps, train.min_lr_share * train.learning_rate
    )
    rule = make_balancer(trial.balancer, trial.model.top_k)
    state = rule.init(trial.model.num_moe_layers, trial.model.num_experts, torch.device("cpu"))
    batches = Batches(prepare(trial.data, corpus_dir).train, train.seq_len, train.seed)
    for step in range(train.steps):
        window = batches.take(step * train.batch_sequences, train.batch_sequences)
        token_BS = torch.from_numpy(window)
        output = model(token_BS[:, :-1], state.bias_LE, rule.adjust)
        loss = functional.cross_entropy(output.logits_BSV.flatten(0, 1), token_BS[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.grad_clip)
        optimizer.step()
        schedule.step()
        seen, score_LTE = _observe(rule, state, output, trial, (step + 1) / train.steps)
        yield TrainedStep(float(loss.detach()), score_LTE, seen.count_LE, state.bias_LE)
        state = rule.update(seen, state)


@torch.no_grad()
def _observe(
    rule: Balancer, state: Any, output: ModelOutput, trial: TrialSpec, progress: float
) -> tuple[Observation, Tensor]:
    count_LE = torch.stack([routed.count_E for routed in output.routed])
    score_LTE = torch.stack([routed.score_TE.detach() for routed in output.routed])
    top_k, experts = trial.model.top_k, trial.model.num_experts
    statistic = None
    if rule.measure is not None:
        statistic = rule.measure.of(score_LTE, state.bias_LE.unsqueeze(1), top_k)
    share_E = torch.tensor(trial.balancer.target or (1 / experts,) * experts)
    target_LE = share_E * count_LE.sum(dim=-1, keepdim=True)
    return Observation(count_LE, target_LE, progress, statistic), score_LTE


def transitions(recording: Recording, layer: int, every: int = 1) -> list[Transition]:
    """The updates of one layer as theory.py checks them: every so many steps, even target."""
    score_NTE = torch.from_numpy(recording.score_NLTE[:, layer])
    bias_NE = torch.from_numpy(recording.bias_NLE[:, layer])
    _, tokens, experts = score_NTE.shape
    load_E = torch.full((experts,), tokens * recording.top_k / experts)
    return [
        Transition(score_NTE[n], bias_NE[n], bias_NE[n + 1], load_E, recording.top_k)
        for n in range(0, len(bias_NE) - 1, every)
    ]
