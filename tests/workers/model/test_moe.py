from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.moe import MoE

Model = Callable[..., ModelSpec]
X_TD = torch.randn(24, 32, generator=torch.Generator().manual_seed(1))


def make_layer(spec: ModelSpec, backend: str = "torch") -> MoE:
    torch.manual_seed(0)
    layer = MoE(spec, backend)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer


def test_shared_experts_see_every_token_with_weight_one(spec_of: Model) -> None:
    """Two shared experts equal the sum of two experts of the given width."""
    layer = make_layer(spec_of(num_shared=2))
    bias_E = torch.zeros(8)
    with_shared, routed = layer(X_TD, bias_E, torch.add, "tokens")
    shared, layer.shared = layer.shared, None
    alone, _ = layer(X_TD, bias_E, torch.add, "tokens")
    gate_a, gate_b, up_a, up_b = shared.gate_up.weight.split(16)
    down_a, down_b = shared.down.weight.split(16, dim=1)
    for gate, up, down in ((gate_a, up_a, down_a), (gate_b, up_b, down_b)):
        alone = alone + (functional.silu(X_TD @ gate.T) * (X_TD @ up.T)) @ down.T
    torch.testing.assert_close(with_shared, alone, rtol=1e-4, atol=1e-5)
    assert int(routed.count_E.sum()) == 48


def test_without_shared_experts_there_are_no_weights_for_them(spec_of: Model) -> None:
    assert make_layer(spec_of(num_shared=0)).shared is None


def test_a_bias_that_keeps_the_choice_keeps_the_output_bit_for_bit(spec_of: Model) -> None:
    layer = make_layer(spec_of())
    plain, _ = layer(X_TD, torch.zeros(8), torch.add, "tokens")
    shifted, _ = layer(X_TD, torch.full((8,), -0.375), torch.add, "tokens")
    moved, _ = layer(X_TD, torch.linspace(-1, 1, 8), torch.add, "tokens")
    assert torch.equal(plain, shifted)
    assert not torch.equal(plain, moved)


@pytest.mark.parametrize("selects", ["tokens", "experts"])
def test_back_ends_agree_on_a_whole_layer(spec_of: Model, selects: str) -> None:
    spec, grads, outputs = spec_of(gate="softmax"), [], []
    for backend in ("reference", "torch"):
        layer = make_layer(spec, backend)
        y_TD, _ = layer(X_TD, torch.zeros(8), torch.add, selects)
        grads.append(torch.autograd.grad(y_TD.square().sum(), list(layer.parameters())))
        outputs.append(y_TD)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)
    for one, other in zip(*grads, strict=True):
        assert (one - other).norm() <= 1e-5 * one.norm()


def test_an_unknown_back_end_is_refused_when_the_layer_is_built(spec_of: Model) -> None:
    with pytest.raises(SpecError, match="cutlass"):
        MoE(spec_of(), "cutlass")
