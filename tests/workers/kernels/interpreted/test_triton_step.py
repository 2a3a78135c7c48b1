"""Tests of a training step whose router kernel counts the margins.

Letters: L expert layers, T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing.base import Balancer, Observation
from evenload.workers.balancing.margins import margin_counts
from evenload.workers.model.contract import Routed
from evenload.workers.model.transformer import ModelOutput
from evenload.workers.training.scoring import scorer_of
from evenload.workers.training.setup import Assembly, assemble
from evenload.workers.training.step import train_step

TOP_K = 2
TRAIN = {"steps": 1, "batch_sequences": 4, "seq_len": 8, "micro_batch_sequences": 2}


def assembly_of(kind: str, backend: str = "triton", recompute: bool = False) -> Assembly:
    model = {"vocab_size": 16, "num_layers": 3, "d_model": 16, "num_heads": 2, "d_dense": 16}
    experts = {"num_experts": 4, "top_k": TOP_K, "d_expert": 8, "init_std": 0.3}
    return assemble(
        TrialSpec.model_validate(
            {
                "model": model | experts,
                "data": {"kind": "synthetic", "vocab_size": 16},
                "train": TRAIN | {"recompute": recompute},
                "balancer": {"kind": kind},
                "runtime": {"device": "cpu", "backend": backend, "threads": 1},
            }
        )
    )


def tokens(seed: int) -> Tensor:
    return torch.randint(16, (2, 9), generator=torch.Generator().manual_seed(seed))


def no_second_pass(score_TE: Tensor, bias_E: Tensor, top_k: int) -> Tensor:
    raise AssertionError("the scores were read again")


class RecordedStep:
    """The routings of one step with two micro-batches, and the observations its rule received."""

    def __init__(self, assembly: Assembly, rule: Balancer) -> None:
        self.layers: list[tuple[Routed, ...]] = []
        self.observations: list[Observation] = []

        def watch(place: int, output: ModelOutput, bias_LE: Tensor) -> None:
            self.layers.append(output.routed)

        def update(observation: Observation, state: Any) -> Any:
            self.observations.append(observation)
            return rule.update(observation, state)

        trainee = assembly.trainee._replace(balancer=rule._replace(update=update), watch=watch)
        # A bias moves the boundary, so the counts show whether it was used.
        self.bias_LE = torch.tensor([[0.1, 0.0, -0.1, 0.0], [0.0, 0.05, 0.0, -0.05]])
        state = assembly.state._replace(bias_LE=self.bias_LE)
        train_step(trainee, state, [tokens(0), tokens(1)], 0.5)

    def statistic(self, of: Callable[[Tensor, Tensor, int], Tensor]) -> Tensor:
        """The statistic of all micro-batches, computed from their scores."""
        parts = [
            torch.stack(
                [
                    of(routed.score_TE.detach(), bias_E, TOP_K)
                    for routed, bias_E in zip(layers, self.bias_LE, strict=True)
                ]
            )
            for layers in self.layers
        ]
        return torch.stack(parts).sum(dim=0)


@pytest.mark.parametrize(
    ("kind", "backend", "recompute"),
    [("kalman", "triton", False), ("self_tuned", "triton_recompute", True)],
)
def test_the_router_counts_the_margins_without_a_second_pass_over_the_scores(
    kind: str, backend: str, recompute: bool
) -> None:
    assembly = assembly_of(kind, backend, recompute)
    rule = assembly.trainee.balancer
    assert rule.measure is not None
    step = RecordedStep(assembly, rule._replace(measure=rule.measure._replace(of=no_second_pass)))
    assert len(step.layers) == 2
    (observation,) = step.observations
    assert observation.statistic is not None
    assert torch.equal(observation.statistic, step.statistic(margin_counts))


@pytest.mark.parametrize(
    ("kind", "backend", "changes"),
    [
        ("kalman", "torch", {}),
        ("kalman", "triton", {"adjust": lambda score_TE, bias_E: score_TE + bias_E}),
        ("quantile", "triton", {}),
    ],
)
def test_without_a_kernel_or_bins_a_statistic_is_computed_from_the_scores(
    kind: str, backend: str, changes: dict[str, Any]
) -> None:
    assembly = assembly_of(kind, backend)
    rule = assembly.trainee.balancer._replace(**changes)
    assert rule.measure is not None
    step = RecordedStep(assembly, rule)
    assert not any(routed.margin_E2B is not None for layers in step.layers for routed in layers)
    (observation,) = step.observations
    assert observation.statistic is not None
    assert torch.equal(observation.statistic, step.statistic(rule.measure.of))


def test_evaluation_counts_no_margins() -> None:
    assembly = assembly_of("self_tuned")
    scorer = scorer_of(assembly, assembly.state.bias_LE, batch_sequences=2)
    layers: list[Routed] = []
    scorer.score(np.asarray(tokens(0)), layers.extend)
    assert [routed.margin_E2B for routed in layers] == [None, None]
