"""Attaches to the small models and trains them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import evenload
from evenload.workers.attach import Balance
from tests.workers.attach import models
from tests.workers.attach.models import PROBE, chosen

BIAS_RULES = ("sign", "proportional", "smebu", "ema", "quantile", "kalman", "self_tuned")


def attach(attached: nn.Module, rule: Any = "self_tuned", **options: Any) -> Balance:
    options = {"probe": PROBE, "added_bias": "keep", **options}
    balance: Balance = evenload.attach(attached, rule, **options)
    chosen(attached)  # forgets the probe
    return balance


def sgd(trained: nn.Module, rate: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(trained.parameters(), lr=rate)


def train(trained: models.Model, optimizer: torch.optim.Optimizer, *batches: Tensor) -> float:
    """One optimizer step over the micro-batches; the loss of the last one."""
    optimizer.zero_grad()
    for token_BS in batches:
        loss = trained.loss(token_BS)
        (loss / len(batches)).backward()
    optimizer.step()
    return loss.item()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)
