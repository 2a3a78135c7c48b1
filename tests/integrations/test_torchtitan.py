"""torchtitan's MoE layer, with the optimizers and the balancing hook of torchtitan.

The whole model is not run: its attention wants masks that are compiled for a GPU.
Letters: B sequences, S tokens of a sequence, E experts.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import evenload
from evenload.workers.attach import Balance

EXPERTS, TOP_K, WIDTH, WORDS, LAYERS = 8, 2, 32, 40, 2
RATE = 0.05


def moe(rate: float | None, score: str, groups: int | None) -> nn.Module:
    from torchtitan.models.common import config_utils

    normal = {"weight": nn.init.normal_}
    experts = {name: lambda w: nn.init.normal_(w, std=0.05) for name in ("w1_EFD", "w2_EDF")}
    layer: nn.Module = config_utils.make_moe_config(
        num_experts=EXPERTS,
        router=config_utils.make_router_config(
            dim=WIDTH, num_experts=EXPERTS, gate_param_init=normal, top_k=TOP_K, score_func=score,
            num_expert_groups=groups, num_limited_groups=groups and groups // 2,
        ),
        routed_experts=config_utils.make_routed_experts_config(
            dim=WIDTH, hidden_dim=16, num_experts=EXPERTS, top_k=TOP_K, comm_backend="standard",
            param_init=experts | {"w3_EFD": experts["w1_EFD"]},
        ),
        load_balance_coeff=rate,
    ).build()  # fmt: skip
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    return layer


class Block(nn.Module):
    """Has the names by which torchtitan's hook finds the MoE layers."""

    def __init__(self, layer: nn.Module | None) -> None:
        super().__init__()
        self.moe_enabled = layer is not None
        self.moe = nn.Linear(WIDTH, WIDTH) if layer is None else layer

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD + self.moe(nn.functional.layer_norm(hidden_BSD, [WIDTH]))


class Model(nn.Module):
    """A dense layer first, then MoE layers."""

    def __init__(
        self,
        rate: float | None = RATE,
        score: str = "sigmoid",
        groups: int | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(WORDS, WIDTH)
        blocks = [Block(None), *(Block(moe(rate, score, groups)) for _ in range(LAYERS))]
        self.layers = nn.ModuleDict({str(place): block for place, block in enumerate(blocks)})
        self.head = nn.Linear(WIDTH, WORDS)
        self.recompute = recompute

    def forward(self, token_BS: Tensor) -> Tensor:
        hidden_BSD = self.embed(token_BS)
        for block in self.layers.values():
            if self.recompute:
                hidden_BSD = checkpoint(block, hidden_BSD, use_reentrant=False)
            else:
                hidden_BSD = block(hidden_BSD)
        return self.head(hidden_BSD)

    def moes(self) -> list[Any]:
        return [block.moe for block in self.layers.values() if block.moe_enabled]  # type: ignore[union-attr]


def optimizers(model: Model) -> Any:
    """torchtitan's container, with its hook where the model's layers ask for one."""
    from torchtitan.components.optimizer import (
        OptimizersContainer,
        ParamGroupConfig,
        register_moe_load_balancing_hook,
    )

    group = ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs={"lr": 1e-3})
    config = OptimizersContainer.Config(param_groups=[group], implementation="for-loop")
    container = OptimizersContainer(config, model_parts=[model])
    alone: Any = SimpleNamespace(get_optional_mesh=lambda name: None, ep_enabled=False, tp=1)
    register_moe_load_balancing_hook(container, [model], alone)
    return container


def tokens(seed: int) -> Tensor:
    return torch.randint(WORDS, (4, 16), generator=torch.Generator().manual_seed(seed))


def attach(model: Model, rule: Any = "self_tuned", **options: Any) -> Balance:
    balance: Balance = evenload.attach(
        model, rule, probe=tokens(99)[:, :13], added_bias="keep", **options
    )
    return balance


def train(model: Model, container: Any, steps: int = 3, pieces: int = 2) -> None:
    for step in range(steps):
        for piece in range(pieces):
            model(tokens(10 * step + piece)).logsumexp(dim=-1).mean().backward()
        container.step()
        container.zero_grad()


PER_STEP = 2 * TOP_K * 4 * 16


@pytest.mark.parametrize("order", ["attach first", "hook first"])
@pytest.mark.parametrize("recompute", [False, True], ids=["", "checkpointing"])
def test_one_rule_moves_the_bias_and_it_is_ours(order: str, recompute: bool) -> None:
    """The biases are those of a model whose own balancing has another step size."""
    results = []
    for rate in (RATE, 7.0):
        model = Model(rate, recompute=recompute)
        if order == "hook first":
            container = optimizers(model)
            balance = attach(model, {"kind": "sign", "step_size": 0.01})
        else:
            balance = attach(model, {"kind": "sign", "step_size": 0.01})
            container = optimizers(model)
        balance.watch(container)
        train(model, container)
        assert all(count_E.sum() == PER_STEP for count_E in balance.counts().values())
        assert balance.steps == 3
        for layer, bias_E in zip(model.moes(), balance.biases().values(), strict=True):
            assert layer.expert_bias_E is not None
            assert torch.equal(layer.expert_bias_E, bias_E)
            assert 0 < bias_E.abs().max() < 0.06
        results.append(torch.stack(list(balance.biases().values())))
        balance.detach()
        assert [layer.load_balance_coeff for layer in model.moes()] == [rate] * LAYERS
    assert torch.equal(*results)


def test_recorded_only_torchtitan_balances_by_itself() -> None:
    alone, recorded = Model(), Model()
    containers = [optimizers(model) for model in (alone, recorded)]
    balance = attach(recorded, "none").watch(containers[1])
    for model, container in zip((alone, recorded), containers, strict=True):
        train(model, container)
    assert all(count_E.sum() == PER_STEP for count_E in balance.counts().values())
    pairs = zip(alone.moes(), recorded.moes(), strict=True)
    assert all(torch.equal(a.expert_bias_E, b.expert_bias_E) for a, b in pairs)
    assert all(layer.expert_bias_E.any() for layer in recorded.moes())


@pytest.mark.parametrize("score", ["sigmoid", "softmax"])
@pytest.mark.parametrize("groups", [None, 4], ids=["", "groups"])
@pytest.mark.parametrize("rate", [RATE, None], ids=["own", "added"])
def test_routers_of_every_kind(score: str, groups: int | None, rate: float | None) -> None:
    model = Model(rate, score, groups)
    keys = list(model.state_dict())
    if groups and rate is None:
        with pytest.raises(evenload.workers.attach.AttachError, match="bypass the first choice"):
            attach(model)
        assert list(model.state_dict()) == keys
        return
    balance = attach(model)
    assert {layer.kind for layer in balance.layers} == {"own" if rate else "added"}
    container = optimizers(model)
    balance.watch(container)
    violations: list[float] = []
    for _ in range(25):
        train(model, container, steps=1)
        violations.append(max(balance.max_vio().values()))
    assert violations[-1] < violations[0] / 2
