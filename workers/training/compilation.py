"""A model through torch.compile: whether it can be, and how often."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import nn

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.trial import TrialSpec

SHAPES_OF_A_WORKER = 256  # beyond these torch.compile compiles no more and says so in a log alone


def check_compiler(trial: TrialSpec) -> None:
    """Raises: SpecError: a resolved trial is to be compiled, and nothing here compiles"""
    compiler = os.environ.get("CXX", "g++")
    on_cpu = trial.runtime.device == "cpu"
    if trial.train.compile and on_cpu and shutil.which(compiler) is None:
        raise SpecError(
            f"train.compile=True needs a C++ compiler, and {compiler!r} is not here; install g++, "
            "name another in the variable CXX, or set train.compile: false"
        )


def compile_model(model: nn.Module, **options: Any) -> None:
    """Its calls are compiled from here on, `forward` is as before.

    A trial's shapes never change, so code is made for them alone. A worker trains many trials: one
    of a shape that it has compiled already compiles nothing.

    Args:     options: of torch.compile
    """
    torch._dynamo.config.recompile_limit = SHAPES_OF_A_WORKER
    model.compile(dynamic=False, **options)
