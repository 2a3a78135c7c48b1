from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.own_model import ModelSpec

Model = Callable[..., ModelSpec]


@pytest.fixture
def spec_of() -> Model:
    """Makes the spec of a model with two expert layers; keyword arguments override fields."""

    def make(**changes: Any) -> ModelSpec:
        fields: dict[str, Any] = {
            "vocab_size": 64,
            "num_layers": 3,
            "d_model": 32,
            "num_heads": 2,
            "d_dense": 64,
            "num_experts": 8,
            "top_k": 2,
            "d_expert": 16,
            "init_std": 0.2,  # large enough to avoid ties in the routing
        }
        return ModelSpec.model_validate(fields | changes)

    return make


@pytest.fixture
def token_BS() -> Tensor:
    return torch.randint(0, 64, (3, 16), generator=torch.Generator().manual_seed(0))
