"""Megatron-core's router, with Megatron's own update of the bias.

Its layers for attention and experts, and its training loop, allocate on a GPU and are not run.
Letters: S tokens of a sequence, B sequences, T tokens, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import evenload
from evenload.workers.attach import Balance

EXPERTS, TOP_K, WIDTH, WORDS, LAYERS = 8, 2, 32, 40, 2
RATE = 0.05
LENGTH, SEQUENCES = 16, 4


@pytest.fixture(scope="module", autouse=True)
def _one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Megatron's process groups, of one rank, and its buffers on the CPU."""
    parallel_state = pytest.importorskip("megatron.core.parallel_state")
    from megatron.core.transformer.moe import moe_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "current_device", lambda: torch.device("cpu"))
        # Without TransformerEngine the name is missing (0.16.1).
        patch.setattr(moe_utils, "te_general_gemm", None, raising=False)
        rendezvous = Path(tmp_path_factory.mktemp("megatron")) / "rendezvous"
        dist.init_process_group("gloo", rendezvous.as_uri(), rank=0, world_size=1)
        parallel_state.initialize_model_parallel()
        yield
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def config(rate: float, **options: Any) -> Any:
    from megatron.core.transformer.transformer_config import TransformerConfig

    return TransformerConfig(
        num_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=2, num_moe_experts=EXPERTS,
        moe_router_topk=TOP_K, moe_router_bias_update_rate=rate, moe_router_dtype="fp32",
        moe_router_load_balancing_type="none", moe_aux_loss_coeff=0.0, add_bias_linear=False,
        use_cpu_initialization=True, **options,
    )  # fmt: skip


OWN = {"moe_router_score_function": "sigmoid", "moe_router_enable_expert_bias": True}


class Layer(nn.Module):
    """The router, and experts that multiply."""

    def __init__(self, router: nn.Module) -> None:
        super().__init__()
        self.router = router
        self.scale_ED = nn.Parameter(torch.randn(EXPERTS, WIDTH))

    def forward(self, hidden_SBD: Tensor, padding_SB: Tensor | None) -> Tensor:
        weight_TE, _ = self.router(hidden_SBD, padding_SB)
        mixed_SBD = (weight_TE.to(hidden_SBD.dtype) @ self.scale_ED).view_as(hidden_SBD)
        return nn.functional.layer_norm(hidden_SBD * (1 + mixed_SBD), [WIDTH])


class Model(nn.Module):
    def __init__(self, config: Any) -> None:
        from megatron.core.process_groups_config import ProcessGroupCollection
        from megatron.core.transformer.moe.router import TopKRouter

        super().__init__()
        torch.manual_seed(0)
        self.config = config
        groups = ProcessGroupCollection.use_mpu_process_groups()
        self.embed = nn.Embedding(WORDS, WIDTH)
        routers = [TopKRouter(config, groups) for _ in range(LAYERS)]
        for router in routers:
            nn.init.normal_(router.weight, std=0.3)
        self.layers = nn.ModuleList(map(Layer, routers))

    def forward(self, token_SB: Tensor, padding_SB: Tensor | None = None) -> Tensor:
        hidden_SBD = self.embed(token_SB)
        for layer in self.layers:
            hidden_SBD = layer(hidden_SBD, padding_SB)
        return hidden_SBD


def tokens(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORDS, (LENGTH, SEQUENCES), generator=generator)


def attach(model: Model, rule: Any = "self_tuned") -> Balance:
    balance: Balance = evenload.attach(model, rule, probe=tokens(99)[:13], added_bias="keep")
    return balance


def train(model: Model, balance: Balance, steps: int = 3, pieces: int = 2) -> list[float]:
    """Megatron's order: gradients, its own update of the biases, the optimizer.

    Returns:  MaxVio of the worst layer, by step
    """
    from megatron.core.distributed.finalize_model_grads import (
        _update_router_expert_bias,
        reset_model_temporary_tensors,
    )

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    balance.watch(optimizer)
    violations = []
    for _ in range(steps):
        for piece in range(pieces):
            model(tokens(piece)).square().mean().backward()
        with torch.no_grad():  # an evaluation
            model(tokens(7))
        if model.config.moe_router_enable_expert_bias:
            _update_router_expert_bias([model], model.config)
            reset_model_temporary_tensors(model.config, [model])
        optimizer.step()
        optimizer.zero_grad()
        violations.append(max(balance.max_vio().values()))
    return violations


PER_STEP = 2 * TOP_K * LENGTH * SEQUENCES


def test_one_rule_moves_the_bias_and_it_is_ours() -> None:
    """The biases are those of a model whose own balancing has another step size."""
    results = []
    for rate in (RATE, 7.0):
        model = Model(config(rate, **OWN))
        balance = attach(model, {"kind": "sign", "step_size": 0.01})
        train(model, balance)
        assert all(count_E.sum() == PER_STEP for count_E in balance.counts().values())
        for layer, bias_E in zip(model.layers, balance.biases().values(), strict=True):
            assert torch.equal(layer.router.expert_bias, bias_E)  # type: ignore[union-attr]
            assert bias_E.any()
        results.append(torch.stack(list(balance.biases().values())))
        balance.detach()
        assert model.config.moe_router_bias_update_rate == rate
    assert torch.equal(*results)


def test_recorded_only_megatron_balances_by_itself() -> None:
    model = Model(config(RATE, **OWN))
    balance = attach(model, "none")
    train(model, balance)
    assert all(count_E.sum() == PER_STEP for count_E in balance.counts().values())
    for layer in model.layers:
        assert layer.router.expert_bias.abs().max() >= RATE * 0.99  # type: ignore[union-attr]


KINDS: dict[str, dict[str, Any]] = {
    "sigmoid, own bias": OWN,
    "groups, own bias": OWN | {"moe_router_num_groups": 4, "moe_router_group_topk": 2},
    "softmax of the chosen": {"moe_router_score_function": "softmax"},
    "softmax of all": {"moe_router_score_function": "softmax", "moe_router_pre_softmax": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_routers_of_every_kind(kind: str) -> None:
    model = Model(config(RATE, **KINDS[kind]))
    balance = attach(model)
    assert {layer.kind for layer in balance.layers} == {"own" if "own" in kind else "added"}
    violations = train(model, balance, steps=25)
    assert violations[-1] < violations[0] / 2
    name, router = balance.layers[0].name, model.layers[0].router  # type: ignore[union-attr]
    hidden_SBD = model.embed(tokens(3))
    with torch.no_grad():
        _, chosen_TE = router(hidden_SBD)
    model(tokens(3))
    balance.step()
    assert torch.equal(balance.counts()[name], chosen_TE.sum(dim=0))


def test_bfloat16_leaves_the_bias_in_float32() -> None:
    model = Model(config(RATE, **OWN))
    balance = attach(model)
    model.bfloat16()
    for piece in range(3):
        model(tokens(piece))
        balance.step()
    assert all(bias_E.dtype == torch.float32 for bias_E in balance.biases().values())
    assert all(bias_E.any() for bias_E in balance.biases().values())


@pytest.mark.parametrize("by", ["position", "keyword"])
def test_padding_that_the_router_is_told_of_does_not_count(by: str) -> None:
    model = Model(config(RATE, **KINDS["softmax of all"]))
    balance = attach(model)
    padding_SB = torch.zeros(LENGTH, SEQUENCES, dtype=torch.bool)
    padding_SB[-5:, 1] = True
    if by == "position":
        model(tokens(0), padding_SB)
    else:
        model.layers[0].router(model.embed(tokens(0)), padding_mask=padding_SB)  # type: ignore[union-attr]
    balance.step()
    counted = [int(count_E.sum()) for count_E in balance.counts().values()]
    per_layer = TOP_K * (LENGTH * SEQUENCES - 5)
    assert counted == [per_layer, per_layer if by == "position" else 0]
