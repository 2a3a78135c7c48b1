from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training.identity import resolve
from tests.other_models import folder_of

Trial = Callable[..., TrialSpec]


@pytest.fixture
def trial_of(tmp_path: Path) -> Trial:
    """Makes a resolved trial of a tiny model: a kind of Hugging Face folder, or `python`."""

    def make(kind: str, balancer: str = "sign", train: Any = None, **model: Any) -> TrialSpec:
        if kind == "python":
            of_kind = {"factory": "tests.other_models:mixture", "vocab_size": 48}
        else:
            path = tmp_path / kind
            of_kind = {"path": str(path if path.exists() else folder_of(kind, path))}
        kinds = "python" if kind == "python" else "huggingface"
        asked = TrialSpec.model_validate(
            {
                "model": {"kind": kinds, **of_kind, **model},
                "data": {"kind": "synthetic", "num_tokens": 60_000, "vocab_size": 32},
                "balancer": {"kind": balancer},
                "train": {"steps": 8, "batch_sequences": 4, "seq_len": 16, **(train or {})},
                "eval": {"tokens": 512, "batch_sequences": 4, "by_k_tokens": 256},
                "runtime": {"device": "cpu", "checkpoint_every": 4},
            }
        )
        return resolve(asked)

    return make
