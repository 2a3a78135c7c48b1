"""Scores, routing and observations without a model.

Letters: L layers, T tokens, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.balancers import parse_balancer
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import Balancer, Observation

torch.set_num_threads(1)  # tests run in parallel, and these tensors are too small for threads


def make(kind: str, top_k: int = 2, **params: Any) -> Balancer:
    return make_balancer(parse_balancer({"kind": kind, **params}), top_k)


def skewed_scores(
    seed: int, *, layers: int = 2, tokens: int = 256, experts: int = 8, gate: str = "sigmoid"
) -> Tensor:
    """Gate scores with the same skew for every seed: expert 0 gets the highest scores."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(layers, tokens, experts, generator=generator)
    logit = noise + torch.linspace(2, -2, experts)
    return torch.sigmoid(logit) if gate == "sigmoid" else torch.softmax(logit, dim=-1)


def observe(
    rule: Balancer,
    state: Any,
    score_LTE: Tensor,
    top_k: int = 2,
    *,
    target: tuple[float, ...] | None = None,
    parts: int = 1,
    progress: float = 0.5,
) -> Observation:
    """The observation of a step on these scores, with its tokens in `parts` micro-batches."""
    counts, statistics = [], []
    for part_LTE in score_LTE.chunk(parts, dim=1):
        bias_L1E = state.bias_LE.unsqueeze(1)
        chosen = rule.adjust(part_LTE, bias_L1E).topk(top_k, dim=-1).indices.flatten(1)
        counts.append(torch.stack([row.bincount(minlength=score_LTE.shape[-1]) for row in chosen]))
        if rule.measure is not None:
            layers = zip(part_LTE, state.bias_LE, strict=True)
            statistics.append(torch.stack([rule.measure.of(s, b, top_k) for s, b in layers]))
    count_LE = torch.stack(counts).sum(dim=0)
    experts = count_LE.shape[-1]
    share = torch.tensor(target or (1 / experts,) * experts)
    statistic = None
    if rule.measure is not None:
        joined = rule.measure.reduction == "concat"
        statistic = torch.cat(statistics, dim=1) if joined else torch.stack(statistics).sum(dim=0)
    return Observation(count_LE, share * count_LE.sum(dim=-1, keepdim=True), progress, statistic)


def run(rule: Balancer, steps: int, **kwargs: Any) -> tuple[Tensor, Any]:
    """Utilisation A / L of every step, (S, L, E), and the state after the last step."""
    scores = {
        name: kwargs[name] for name in ("gate", "experts", "tokens", "layers") if name in kwargs
    }
    others = {name: kwargs[name] for name in kwargs if name not in scores}
    state = rule.init(scores.get("layers", 2), scores.get("experts", 8), torch.device("cpu"))
    seen = []
    for step in range(steps):
        observation = observe(rule, state, skewed_scores(step, **scores), **others)
        seen.append(observation.count_LE / observation.target_LE)
        state = rule.update(observation, state)
    return torch.stack(seen), state


@pytest.fixture
def lab() -> SimpleNamespace:
    tools: dict[str, Callable[..., Any]] = {
        "make": make,
        "scores": skewed_scores,
        "observe": observe,
        "run": run,
    }
    return SimpleNamespace(**tools)
