"""In transformers' own classes an exported model computes the same as the trained one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.transformer import MoELanguageModel
from tests.workers.model.export.conftest import Write, trained_model

Model = Callable[..., ModelSpec]

GATES: dict[str, dict[str, Any]] = {
    "glm4_moe": {"gate": "sigmoid"},
    "glm4_moe, groups": {"gate": "sigmoid", "num_groups": 4, "top_groups": 2},
    "glm4_moe, plain weights": {"gate": "sigmoid", "renormalise": False},
    "ernie4_5_moe": {"gate": "softmax"},
    "qwen2_moe": {"gate": "softmax", "renormalise": False},
}
SHAPES = [
    {"num_shared": shared, "num_dense_layers": dense, "route_scale": scale}
    for shared, dense, scale in itertools.product((0, 2), (0, 2), (1.0, 2.5))
]


def bias_of(spec: ModelSpec) -> Tensor:
    """A bias large enough to change the selection; zero if no type has a bias for this gate."""
    spread = {"sigmoid": 0.3, "softmax": 0.1 if spec.renormalise else 0.0}[spec.gate]
    generator = torch.Generator().manual_seed(1)
    return spread * torch.randn(spec.num_moe_layers, spec.num_experts, generator=generator)


def loaded(folder: Path) -> Any:
    """Loads the model like a user; no tensor of the file is unused or missing."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@torch.no_grad()
def own_logits(model: MoELanguageModel, token_BS: Tensor, bias_LE: Tensor) -> Tensor:
    return model(token_BS, bias_LE).logits_BSV


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_are_those_of_the_trained_model(
    spec_of: Model, write: Write, token_BS: Tensor, gate: str, shape: dict[str, Any]
) -> None:
    spec = spec_of(**GATES[gate], **shape, rope_theta=500.0, norm_eps=1e-5)
    model, bias_LE = trained_model(spec), bias_of(spec)
    exported = loaded(write(model, spec, bias_LE))
    assert exported.config.model_type == gate.partition(",")[0]
    with torch.no_grad():
        logits_BSV = exported(token_BS).logits
    own_BSV = own_logits(model, token_BS, bias_LE)
    assert own_BSV.abs().max() > 1
    torch.testing.assert_close(logits_BSV, own_BSV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gate", ["glm4_moe", "ernie4_5_moe"])
def test_the_bias_is_in_the_buffer_that_servers_read_and_decides(
    spec_of: Model, write: Write, token_BS: Tensor, gate: str
) -> None:
    spec = spec_of(**GATES[gate])
    model, bias_LE = trained_model(spec), bias_of(spec)
    folder = write(model, spec, bias_LE)
    name = {"glm4_moe": "gate", "ernie4_5_moe": "moe_statics"}[gate]
    stored = load_file(folder / "model.safetensors")
    for layer, bias_E in enumerate(bias_LE, start=spec.num_dense_layers):
        buffer = stored[f"model.layers.{layer}.mlp.{name}.e_score_correction_bias"]
        assert torch.equal(buffer.flatten(), bias_E)
    unbiased_BSV = own_logits(model, token_BS, torch.zeros_like(bias_LE))
    with torch.no_grad():
        assert (loaded(folder)(token_BS).logits - unbiased_BSV).abs().max() > 0.1


@pytest.mark.parametrize("gate", GATES)
def test_tied_embeddings_are_written_once(
    spec_of: Model, write: Write, token_BS: Tensor, gate: str
) -> None:
    spec = spec_of(**GATES[gate], tie_embeddings=True)
    model, bias_LE = trained_model(spec), bias_of(spec)
    folder = write(model, spec, bias_LE)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    with torch.no_grad():
        logits_BSV = loaded(folder)(token_BS).logits
    torch.testing.assert_close(
        logits_BSV, own_logits(model, token_BS, bias_LE), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("gate", GATES)
def test_it_generates_the_same_tokens_as_the_trained_model(
    spec_of: Model, write: Write, token_BS: Tensor, gate: str
) -> None:
    """Uses the key-value cache of transformers, which the trained model does not have."""
    spec = spec_of(**GATES[gate])
    model, bias_LE = trained_model(spec), bias_of(spec)
    exported = loaded(write(model, spec, bias_LE))
    ours_BS = token_BS
    for _ in range(6):
        next_B = own_logits(model, ours_BS, bias_LE)[:, -1].argmax(dim=-1)
        ours_BS = torch.cat([ours_BS, next_B[:, None]], dim=1)
    theirs_BS = exported.generate(
        token_BS,
        attention_mask=torch.ones_like(token_BS),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
    )
    assert theirs_BS.tolist() == ours_BS.tolist()
