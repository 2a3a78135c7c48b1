"""What attach refuses because it cannot be proved of a router, each with its reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import evenload
from evenload.workers.attach import AttachError
from tests.workers.attach.models import (
    PROBE,
    Experts,
    Layer,
    Model,
    OwnBiasRouter,
    SoftmaxRouter,
    model,
    tokens,
)


class Unsteady(SoftmaxRouter):
    """Gives other weights at every call."""

    calls = 0

    def done(self, weight_TK: Tensor, expert_TK: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return super().done(weight_TK + 1e-3 * self.calls * weight_TK**2, expert_TK, like)


class Deaf(SoftmaxRouter):
    """Sends token by token to fixed experts, whatever it selected."""

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        score_TE = self.score(hidden_TD)
        score_TE.topk(self.top_k, dim=-1)
        expert_TK = torch.arange(len(hidden_TD)).unsqueeze(1) + torch.arange(self.top_k)
        expert_TK = expert_TK % score_TE.shape[-1]
        return self.done(score_TE.gather(-1, expert_TK), expert_TK, hidden_TD)


class Weighing(OwnBiasRouter):
    """Weights from score + bias: the mistake that the check is for."""

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        biased_TE = self.score(hidden_TD) + self.e_score_correction_bias
        weight_TK, expert_TK = biased_TE.topk(self.top_k, dim=-1)
        return self.done(weight_TK, expert_TK, hidden_TD)


class Twice(SoftmaxRouter):
    """Selects for two sets of experts in one forward."""

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        self.score(-hidden_TD).topk(self.top_k, dim=-1)
        return super().forward(hidden_TD)


class Capped(SoftmaxRouter):
    """Experts beyond the first half are only for the first tokens."""

    def score(self, hidden_TD: Tensor) -> Tensor:
        score_TE = super().score(hidden_TD)
        half = score_TE.shape[1] // 2
        late_T1 = torch.arange(len(score_TE)).unsqueeze(1) >= len(score_TE) // 2
        late_TE = late_T1 & (torch.arange(2 * half) >= half)
        return score_TE.masked_fill(late_TE, -torch.inf)


REASONS: list[tuple[type[SoftmaxRouter], str]] = [
    (Unsteady, "its outputs change although the bias does not"),
    (Deaf, "a large bias moves nothing: its choice does not reach the outputs"),
    (Capped, r"a large bias brings only \d+ of \d+ tokens over"),
    (Twice, "selects 2 times in one forward"),
]


@pytest.mark.parametrize(("router", "reason"), REASONS, ids=[r.__name__ for r, _ in REASONS])
def test_a_router_that_cannot_be_balanced_says_why(
    router: type[SoftmaxRouter], reason: str
) -> None:
    trained = Model([Layer(Experts(router(), 8))])
    keys, classes = list(trained.state_dict()), [type(module) for module in trained.modules()]
    with pytest.raises(AttachError, match=rf"layers\.0\.mlp\.gate {reason}"):
        evenload.attach(trained, probe=PROBE, added_bias="keep")
    assert list(trained.state_dict()) == keys
    assert [type(module) for module in trained.modules()] == classes
    trained(tokens())


def test_a_bias_that_would_weigh_is_not_taken() -> None:
    """The model's own bias fails the check, and one that is added beside it passes."""
    trained = Model([Layer(Experts(Weighing(), 8))])
    [layer] = evenload.attach(trained, probe=PROBE, added_bias="keep").layers
    assert layer.kind == "added"


class Bottleneck(nn.Module):
    """Selects the best features of every token, over a width that is nobody's experts."""

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        kept = functional.pad(hidden_BSD, (0, 5)).topk(3, dim=-1)
        return hidden_BSD + kept.values.sum(dim=-1, keepdim=True)


def test_a_topk_over_no_experts_is_no_router() -> None:
    trained = model()
    trained.layers.append(Bottleneck())
    names = [layer.name for layer in evenload.attach(trained, "none", probe=PROBE).layers]
    assert names == ["layers.0.mlp.gate", "layers.1.mlp.gate"]


def test_the_proof_leaves_modes_gradients_and_random_state() -> None:
    trained = model(own_bias=True)
    trained.layers[0].eval()
    trained.loss(tokens()).backward()
    before = [parameter.grad.clone() for parameter in trained.parameters()]  # type: ignore[union-attr]
    modes, random = [m.training for m in trained.modules()], torch.get_rng_state()
    evenload.attach(trained, probe=PROBE)
    after: list[Any] = [parameter.grad for parameter in trained.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert [module.training for module in trained.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(router.e_score_correction_bias.any() for router in _gates(trained))


def _gates(trained: Model) -> list[Any]:
    return [layer.mlp.gate for layer in trained.layers]  # type: ignore[union-attr]
