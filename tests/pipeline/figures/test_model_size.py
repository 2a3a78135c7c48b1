from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evenload.pipeline.figures.model_size import CHECKPOINTS_KEPT, model_size
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.trial import TrainSpec
from evenload.workers.kernels.linear_cross_entropy import linear_cross_entropy
from evenload.workers.model.transformer import MoELanguageModel
from evenload.workers.training import checkpoint

VARIANTS: list[dict[str, Any]] = [
    {"preset": "tiny"},
    {"preset": "tiny", "tie_embeddings": True, "num_shared": 0, "num_dense_layers": 0},
    {"preset": "tiny", "num_experts": 8, "top_k": 8, "num_shared": 3, "num_layers": 5},
]


def spec_of(fields: dict[str, Any]) -> ModelSpec:
    return ModelSpec.model_validate(fields)


def train_of(**changes: Any) -> TrainSpec:
    return TrainSpec.model_validate({"steps": 1, "batch_sequences": 8, "seq_len": 64} | changes)


@pytest.mark.parametrize("fields", [{"preset": name} for name in PRESETS] + VARIANTS)
def test_parameters_are_those_of_the_built_model(fields: dict[str, Any]) -> None:
    spec = spec_of(fields)
    with torch.device("meta"):
        model = MoELanguageModel(spec, "torch")
    assert model_size(spec).parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("fields", VARIANTS)
def test_active_parameters_leave_out_the_experts_that_a_token_did_not_choose(
    fields: dict[str, Any],
) -> None:
    """The model's weights with a gradient from one token are counted; embeddings count in full."""
    spec = spec_of(fields)
    model = MoELanguageModel(spec, "reference")
    token_BS = torch.zeros(1, 1, dtype=torch.int64)
    bias_LE = torch.zeros(spec.num_moe_layers, spec.num_experts)
    # Weights of chosen experts get a gradient that is nowhere exactly zero; others get zeros.
    model(token_BS, bias_LE).logits_BSV.square().sum().backward()
    active = 0
    for weight in model.parameters():
        if weight.ndim == 3:
            active += sum(expert.numel() for expert in weight.grad if expert.abs().max() > 0)
        else:
            active += weight.numel()
    assert model_size(spec).active_parameters == active


@pytest.mark.parametrize("fields", VARIANTS)
def test_flops_are_those_that_torch_counts(fields: dict[str, Any]) -> None:
    """torch also counts masked pairs of attention, so S keys per query instead of (S + 1) / 2."""
    spec, seq_len = spec_of(fields), 16
    model = MoELanguageModel(spec, "reference")
    token_BS = torch.randint(0, spec.vocab_size, (2, seq_len))
    bias_LE = torch.zeros(spec.num_moe_layers, spec.num_experts)
    masked = 2 * spec.d_model * (seq_len - 1) * spec.num_layers
    size = model_size(spec)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss = model(token_BS, bias_LE).logits_BSV.square().sum()
        forward = counter.get_total_flops()
        loss.backward()
    assert forward / token_BS.numel() == size.forward_flops_per_token(seq_len) + masked
    total = size.train_flops_per_token(seq_len) + 3 * masked
    assert counter.get_total_flops() / token_BS.numel() == total


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("fields", VARIANTS)
def test_activation_memory_is_what_autograd_keeps(fields: dict[str, Any], precision: str) -> None:
    spec, train = spec_of(fields), train_of(precision=precision)
    model = MoELanguageModel(spec, "torch")
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    token_BS = torch.randint(0, spec.vocab_size, (train.batch_sequences, train.seq_len + 1))
    bias_LE = torch.zeros(spec.num_moe_layers, spec.num_experts)
    low = precision == "bfloat16"
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            output = model(token_BS[:, :-1], bias_LE)
        hidden_1TD, target_1T = (
            output.hidden_BSD.flatten(0, 1)[None],
            token_BS[:, 1:].flatten()[None],
        )
        linear_cross_entropy(hidden_1TD, output.head_VD[None], target_1T)
    # The gradient of the head is counted with the gradients.
    kept_bytes = sum(s.nbytes() for s in kept.values()) - 4 * output.head_VD.numel()
    measured = 16 * model_size(spec).parameters + kept_bytes
    assert model_size(spec).train_memory_bytes(train) == pytest.approx(measured, rel=0.05)


def test_memory_grows_with_the_micro_batch_and_shrinks_with_recomputation() -> None:
    size = model_size(spec_of({"preset": "small"}))
    whole = size.train_memory_bytes(train_of())
    assert size.train_memory_bytes(train_of(recompute=True)) < whole
    halves = size.train_memory_bytes(train_of(micro_batch_sequences=4))
    fixed = 16 * size.parameters
    assert halves - fixed == (whole - fixed) / 2


def test_disk_space_is_that_of_kept_checkpoints_and_all_counts() -> None:
    spec = spec_of({"preset": "tiny"})
    size = model_size(spec)
    assert CHECKPOINTS_KEPT == checkpoint.NUM_KEPT
    per_step = spec.num_moe_layers * spec.num_experts * 8
    assert size.disk_bytes(100) - size.disk_bytes(0) == 100 * per_step
    assert size.disk_bytes(0) == 2 * 3 * 4 * size.parameters


def test_presets_have_the_size_of_their_name() -> None:
    millions = {name: model_size(spec_of({"preset": name})).parameters / 1e6 for name in PRESETS}
    assert millions["tiny"] < 1
    assert 28 < millions["small"] < 33
    assert 900 < millions["deepseekmoe-1b"] < 1100
    assert 2200 < millions["deepseekmoe-3b"] < 3300
