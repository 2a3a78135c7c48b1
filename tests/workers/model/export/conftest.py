from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.model.export.folder import write_folder
from evenload.workers.model.export.model_card import Trained
from evenload.workers.model.export.tokenizer_files import TextTokenizer
from evenload.workers.model.transformer import MoELanguageModel

Write = Callable[..., Path]


def trained_model(spec: ModelSpec) -> MoELanguageModel:
    """A model with random norms, which are not all one, like those of a trained model."""
    torch.manual_seed(0)
    model = MoELanguageModel(spec, "torch").eval()
    for weight in model.parameters():
        if weight.ndim == 1:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model


def trained(spec: ModelSpec, kind: str = "sign") -> Trained:
    trial = TrialSpec.model_validate(
        {
            "model": spec.model_dump(),
            "data": {"kind": "synthetic", "vocab_size": spec.vocab_size},
            "balancer": {"kind": kind},
            "train": {"steps": 20, "batch_sequences": 4, "seq_len": 64},
        }
    )
    return Trained("0123456789abcdef", trial, 20, {"val_loss": 1.25}, [])


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Exports a model with this bias to a folder."""

    def to_folder(
        model: MoELanguageModel,
        spec: ModelSpec,
        bias_LE: Tensor,
        tokenizer: TextTokenizer | None = None,
    ) -> Path:
        folder = tmp_path / "exported"
        write_folder(folder, trained(spec), model.state_dict(), bias_LE, tokenizer)
        return folder

    return to_folder
