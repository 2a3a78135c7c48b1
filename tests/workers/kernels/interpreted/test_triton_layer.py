"""Compares a whole expert layer on the Triton kernels with one on torch's operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.moe import MoE
from evenload.workers.selection import add_bias


def results(backend: str, spec: ModelSpec, adjust: Any) -> dict[str, Tensor]:
    """Outputs, counts and every gradient, including those through the scores."""
    generator = torch.Generator().manual_seed(0)
    layer = MoE(spec, backend)
    for parameter in layer.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    x_TD = torch.randn(21, spec.d_model, generator=generator).requires_grad_()
    bias_E = torch.randn(spec.num_experts, generator=generator) / 10
    y_TD, routed = layer(x_TD, bias_E, adjust, "tokens")
    loss = y_TD.square().sum() + routed.score_TE.square().sum()
    names = ["x_TD", *dict(layer.named_parameters())]
    grads = torch.autograd.grad(loss, [x_TD, *layer.parameters()])
    values = {"y_TD": y_TD.detach(), "score_TE": routed.score_TE.detach()}
    values |= {"count_E": routed.count_E, "expert_TK": routed.expert_TK}
    return values | dict(zip(names, grads, strict=True))


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize("adjust", [add_bias, lambda score_TE, bias_E: score_TE - bias_E])
def test_the_layer_is_the_same_on_both_back_ends(gate: str, adjust: Any) -> None:
    spec = ModelSpec(
        vocab_size=32,
        num_layers=2,
        d_model=16,
        num_heads=2,
        d_dense=32,
        num_experts=6,
        top_k=2,
        d_expert=24,
        gate=gate,
    )
    actual, expected = results("triton", spec, adjust), results("torch", spec, adjust)
    for name, value in expected.items():
        if value.dtype == torch.int64:
            assert torch.equal(actual[name], value), name
            continue
        error = (actual[name].double() - value.double()).norm() / value.double().norm()
        # Gradients pass three products, and the error of each grows with the root of its length.
        assert error <= 6 * torch.finfo(torch.float32).eps * 24**0.5, name
