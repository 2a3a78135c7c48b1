"""Estimates what trials will need: parameters, tokens, FLOPs, memory and disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.figures.wording import scaled
from evenload.pipeline.spec.trial import TrialSpec


class TrialPlan(NamedTuple):
    """What one trial will need."""

    label: str
    num_experts: int
    seed: int
    parameters: int
    active_parameters: int
    tokens: int
    train_flops: float
    memory_bytes: int
    disk_bytes: int
    backend: str
    device: str
    not_known: str  # what the figures leave out


class Totals(NamedTuple):
    """What all trials together will need. The memory is that of the largest trial."""

    trials: int
    tokens: int
    train_flops: float
    memory_bytes: int
    disk_bytes: int


def plan_trial(trial: TrialSpec) -> TrialPlan:
    train, size = trial.train, model_size(trial.model)
    tokens = train.steps * train.tokens_per_step
    return TrialPlan(
        label=trial.balancer.label,
        num_experts=trial.model.num_experts,
        seed=train.seed,
        parameters=size.parameters,
        active_parameters=size.active_parameters,
        tokens=tokens,
        train_flops=size.train_flops_per_token(train.seq_len) * tokens,
        memory_bytes=size.train_memory_bytes(train),
        disk_bytes=size.disk_bytes(train.steps),
        backend=trial.runtime.backend,
        device=trial.runtime.device,
        not_known="" if trial.model.kind == "own" else "memory of activations",
    )


def totals(plans: Sequence[TrialPlan]) -> Totals:
    return Totals(
        trials=len(plans),
        tokens=sum(plan.tokens for plan in plans),
        train_flops=sum(plan.train_flops for plan in plans),
        memory_bytes=max((plan.memory_bytes for plan in plans), default=0),
        disk_bytes=sum(plan.disk_bytes for plan in plans),
    )


def disk_shortage(plans: Sequence[TrialPlan], folder: Path) -> str:
    """How much more disk the trials may need than is free for a folder; empty if they fit."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    needed, free = totals(plans).disk_bytes, shutil.disk_usage(there).free
    if needed <= free:
        return ""
    return (
        f"the trials may need {scaled(needed, 'B')} of disk, and {scaled(free, 'B')} are free for "
        "the home; plan fewer, shorter or smaller trials, free space, or name another home"
    )
