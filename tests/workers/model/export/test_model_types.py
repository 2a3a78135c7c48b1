from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.export.model_types import model_type_of

Model = Callable[..., ModelSpec]


def test_plain_softmax_weights_are_exported_only_without_a_bias(spec_of: Model) -> None:
    spec = spec_of(gate="softmax", renormalise=False)
    bias_LE = torch.zeros(2, 8)
    assert model_type_of(spec, bias_LE, 64).name == "qwen2_moe"
    bias_LE[1, 3] = 1e-6
    with pytest.raises(SpecError, match=r"model\.renormalise=false: no model type .* renormalise"):
        model_type_of(spec, bias_LE, 64)


def test_a_single_expert_has_no_type(spec_of: Model) -> None:
    spec = spec_of(num_experts=1, top_k=1)
    with pytest.raises(SpecError, match=r"model\.num_experts=1: .* two or more"):
        model_type_of(spec, torch.zeros(2, 1), 64)


def test_the_largest_position_is_that_of_training(spec_of: Model) -> None:
    kind = model_type_of(spec_of(), torch.zeros(2, 8), 64)
    assert kind.config["max_position_embeddings"] == 64
