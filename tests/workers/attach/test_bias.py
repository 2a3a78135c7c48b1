"""The bias stays float32, in place, and leaves as it came."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evenload
from tests.workers.attach import models
from tests.workers.attach.models import PROBE, Model, chosen, model, tokens

VALUE = 0.123456  # bfloat16 would make it 0.12354


def gates(attached: Model) -> list[Any]:
    return [layer.mlp.gate for layer in attached.layers]  # type: ignore[union-attr]


def bias(gate: nn.Module) -> Tensor:
    names = [name for name, _ in gate.named_buffers() if "bias" in name]
    assert len(names) == 1
    return gate.get_buffer(names[0])


CHANGES: dict[str, Callable[[Model], Any]] = {
    "bfloat16": lambda m: m.bfloat16(),
    "half": lambda m: m.half(),
    "double": lambda m: m.double(),
    "to(dtype)": lambda m: m.to(torch.bfloat16),
    "to(device, dtype)": lambda m: m.to("cpu", torch.bfloat16),
    "to_empty": lambda m: m.to_empty(device="cpu"),
    "apply twice": lambda m: m.bfloat16().float(),
    "load": lambda m: m.load_state_dict(m.state_dict()),
    "load bfloat16": lambda m: m.load_state_dict(
        {n: v if "bias" in n else v.bfloat16() for n, v in m.state_dict().items()}, assign=True
    ),
}


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_bias_stays_float32_through_whatever_happens_to_the_model(
    change: Callable[[Model], Any], own_bias: bool
) -> None:
    attached = model(own_bias=own_bias)
    evenload.attach(attached, probe=PROBE, added_bias="keep")
    for gate in gates(attached):
        bias(gate).fill_(VALUE)
    change(attached)
    for gate in gates(attached):
        assert bias(gate).dtype == torch.float32
        assert bias(gate).tolist() == pytest.approx([VALUE] * 8, abs=1e-7)


def test_a_bias_that_is_loaded_in_bfloat16_is_float32_again() -> None:
    attached = model(own_bias=True)
    evenload.attach(attached, probe=PROBE)
    low = {name: value.bfloat16() for name, value in attached.state_dict().items()}
    attached.load_state_dict(low, assign=True)
    assert all(bias(gate).dtype == torch.float32 for gate in gates(attached))
    assert attached.head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_what_comes_from_a_device_without_memory_starts_at_zero(own_bias: bool) -> None:
    attached = model(own_bias=own_bias)
    evenload.attach(attached, probe=PROBE, added_bias="keep")
    attached.to("meta").to_empty(device="cpu")
    assert all(not bias(gate).any() for gate in gates(attached))


def test_a_bfloat16_bias_of_the_models_own_becomes_float32_and_leaves_as_bfloat16() -> None:
    attached = model(own_bias=True).bfloat16()
    gate = gates(attached)[0]
    assert gate.e_score_correction_bias.dtype == torch.bfloat16
    balance = evenload.attach(attached, probe=PROBE)
    assert gate.e_score_correction_bias.dtype == torch.float32
    assert attached.state_dict()["layers.0.mlp.gate.e_score_correction_bias"].dtype == torch.float32
    balance.detach()
    assert gate.e_score_correction_bias.dtype == torch.bfloat16


def test_a_parameter_is_a_buffer_while_attached_and_the_same_parameter_after() -> None:
    attached = model(1, own_bias=True)
    gate = gates(attached)[0]
    value = gate._buffers.pop("e_score_correction_bias")
    gate.e_score_correction_bias = nn.Parameter(value, requires_grad=False)
    parameter, keys = gate.e_score_correction_bias, set(attached.state_dict())
    balance = evenload.attach(attached, probe=PROBE)
    assert balance.layers[0].kind == "own"
    assert "e_score_correction_bias" in dict(gate.named_buffers())
    assert set(attached.state_dict()) == keys
    attached.loss(tokens())
    balance.step()
    learned = bias(gate).clone()
    balance.detach()
    assert gate.e_score_correction_bias is parameter
    assert torch.equal(parameter.detach(), learned)
    assert learned.any()


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_updates_are_in_place_and_counts_in_no_buffer(own_bias: bool) -> None:
    """DDP sends buffers of the first rank to all others at every forward."""
    attached = model(own_bias=own_bias)
    balance = evenload.attach(attached, probe=PROBE, added_bias="keep")
    places = [bias(gate).data_ptr() for gate in gates(attached)]
    buffers = {name: value.clone() for name, value in attached.named_buffers()}
    attached.loss(tokens())
    assert all(torch.equal(value, buffers[name]) for name, value in attached.named_buffers())
    balance.step()
    assert [bias(gate).data_ptr() for gate in gates(attached)] == places
    assert all(bias(gate).any() for gate in gates(attached))


def test_ten_thousand_assignments_to_one_expert_are_ten_thousand() -> None:
    attached = model(1, experts=2, top_k=1).bfloat16()
    gate = gates(attached)[0]
    balance = evenload.attach(attached, "none", probe=PROBE)
    with torch.no_grad():
        gate.weight.zero_()
    attached(tokens(100, 100))
    balance.step()
    assert balance.counts()["layers.0.mlp.gate"].max() == 10_000


def test_a_class_that_others_put_on_top_stays_when_ours_leaves() -> None:
    attached = model(1)
    gate = gates(attached)[0]
    balance = evenload.attach(attached, probe=PROBE, added_bias="keep")

    class Sharded(nn.Module):
        """What FSDP2 does to the modules it is given."""

    gate.__class__ = type("ShardedRouter", (Sharded, type(gate)), {})
    balance.detach()
    assert isinstance(gate, Sharded)
    assert type(gate).__name__ == "ShardedRouter"
    assert "evenload_bias" not in dict(gate.named_buffers())
    chosen(attached)
    attached(tokens())
    assert all(count_E.sum() == 128 for count_E in chosen(attached).values())


def test_a_class_that_inherits_from_abc_first_is_swapped_and_comes_back() -> None:
    """As Megatron's routers: Python refuses other bases for them."""

    class Abstract(abc.ABC, models.SoftmaxRouter):
        pass

    router = Abstract()
    trained = Model([models.Layer(models.Experts(router, 8))])
    balance = evenload.attach(trained, probe=PROBE, added_bias="keep")
    trained.bfloat16()
    assert bias(router).dtype == torch.float32
    assert type(router).__name__ == "Abstract"
    assert isinstance(router, Abstract)
    balance.detach()
    assert type(router) is Abstract


def test_a_copy_of_a_router_alone_routes_on() -> None:
    """PEFT's modules_to_save copies the router itself."""
    attached = model(1)
    evenload.attach(attached, probe=PROBE, added_bias="keep")
    gate = gates(attached)[0]
    gate.evenload_bias[3] = 100.0
    copied = copy.deepcopy(gate)
    hidden_TD = torch.randn(5, 16)
    assert torch.equal(copied(hidden_TD)[1], gate(hidden_TD)[1])
    assert (copied(hidden_TD)[1] == 3).any(dim=-1).all()
