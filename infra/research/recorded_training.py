"""Trains a small model on the CPU and records the scores of its routers, or yields its steps.

Letters: N steps, L expert layers, T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evenload.pipeline.records.scores import Recording, write_recording
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import Balancer, Observation
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import Batches
from evenload.workers.model.transformer import ModelOutput, MoELanguageModel
from evenload.workers.simulation.theory_checks import Transition


class TrainedStep(NamedTuple):
    loss: float  # nats per token
    score_LTE: Tensor
    count_LE: Tensor
    bias_LE: Tensor  # the bias that routed this step


def record(trial: TrialSpec, path: Path, *, corpus_dir: Path, tokens: int = 1024) -> Path:
    """Trains the trial's model and writes the scores of every step's first `tokens` tokens."""
    steps = list(train_steps(trial, corpus_dir))
    recording = Recording(
        np.stack([step.score_LTE[:, :tokens].numpy() for step in steps]),
        np.stack([step.bias_LE.numpy() for step in steps]),
        trial.model.top_k,
    )
    return write_recording(path, recording)


def train_steps(trial: TrialSpec, corpus_dir: Path) -> Iterator[TrainedStep]:
    """Trains the trial on the CPU, with one micro-batch per step and without an auxiliary loss."""
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
    """Every `every`-th update of a layer, with a uniform target, for the theory checks."""
    score_NTE = torch.from_numpy(recording.score_NLTE[:, layer])
    bias_NE = torch.from_numpy(recording.bias_NLE[:, layer])
    _, tokens, experts = score_NTE.shape
    load_E = torch.full((experts,), tokens * recording.top_k / experts)
    return [
        Transition(score_NTE[n], bias_NE[n], bias_NE[n + 1], load_E, recording.top_k)
        for n in range(0, len(bias_NE) - 1, every)
    ]
