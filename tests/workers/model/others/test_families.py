"""Causal models of transformers take a step of training by the contract, or are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.other_models import OtherModel
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training.identity import resolve
from evenload.workers.training.setup import assemble
from evenload.workers.training.step import train_step
from infra.research.tiny_models import expert_types, tiny_model

pytest.importorskip("transformers")

REFUSED = {
    "deepseek_v4": "makes no top-k call for a bias to change",  # its first layers, by a table
    "doge": "chooses first among",
    "longcat_flash": "4 experts without computation",
    "phimoe": "makes no top-k call for a bias to change",
    "zaya": "1 experts without computation",
}


def spec_of(model_type: str, folder: Path, rule: str) -> TrialSpec:
    tiny_model(model_type).config.save_pretrained(folder)
    return TrialSpec.model_validate(
        {
            "model": {"kind": "huggingface", "path": folder},
            "data": {"kind": "synthetic", "vocab_size": 2},
            "train": {"steps": 2, "batch_sequences": 2, "seq_len": 16},
            "balancer": {"kind": rule},
            "runtime": {"device": "cpu"},
        }
    )


def take_a_step(model_type: str, folder: Path, rule: str) -> None:
    spec = resolve(spec_of(model_type, folder, rule))
    assert isinstance(spec.model, OtherModel)
    found = spec.model.found
    assembly = assemble(spec)
    model = assembly.trainee.model
    own_biases = sum(bias.numel() for bias in model.buffers() if bias.numel() == found.num_experts)
    counted = sum(weight.numel() for weight in model.parameters())
    assert counted <= found.parameters <= counted + own_biases  # some are parameters elsewhere
    assert 0 < found.expert_parameters < found.parameters
    token_BS = torch.arange(34).view(2, 17) % 30 + 3
    output, state = train_step(assembly.trainee, assembly.state, [token_BS], 0.5)
    assert (output.count_LE.sum(dim=-1) == 32 * found.top_k).all()
    assert state.bias_LE.any() == (rule != "none")


@pytest.mark.parametrize("model_type", ["dbrx", "gemma4", "minimax_m2", "ernie4_5_moe", "jetmoe"])
def test_special_layouts_are_trained(model_type: str, tmp_path: Path) -> None:
    """Experts below each other, keys below text_config, a bias of the block, one that is a
    parameter, and two routers per layer."""
    take_a_step(model_type, tmp_path, "self_tuned")


@pytest.mark.parametrize("model_type", REFUSED)
def test_what_cannot_be_balanced_is_refused(model_type: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=REFUSED[model_type]):
        assemble(resolve(spec_of(model_type, tmp_path, "none")))


@pytest.mark.integration
@pytest.mark.parametrize("model_type", sorted({*expert_types()} - REFUSED.keys()))
def test_every_other_type_is_trained(model_type: str, tmp_path: Path) -> None:
    take_a_step(model_type, tmp_path, "none" if "/groups" in model_type else "self_tuned")
