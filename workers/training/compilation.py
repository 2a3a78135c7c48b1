"""Compiles a model with torch.compile and checks that a compiler is installed."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.trial import TrialSpec

if TYPE_CHECKING:
    from torch import nn

MOST_COMPILED_SHAPES = 256  # per worker; after that torch.compile stops with only a log line


def check_compiler(trial: TrialSpec) -> None:
    """Raises: SpecError: the resolved trial needs a compiler, and this machine has none"""
    compiler = os.environ.get("CXX", "g++")
    on_cpu = trial.runtime.device == "cpu"
    if trial.train.compile and on_cpu and shutil.which(compiler) is None:
        raise SpecError(
            f"train.compile=True needs a C++ compiler, but {compiler!r} was not found; install "
            "g++, set CXX to another compiler, or set train.compile: false"
        )


def compile_model(model: nn.Module, **options: Any) -> None:
    """Compiles all further calls of the model; `model.forward` still runs the original.

    The shapes of a trial never change, so the code is made for fixed shapes. A worker that trains
    several trials compiles each shape only once.

    Args:     options: passed to torch.compile
    """
    import torch

    torch._dynamo.config.recompile_limit = MOST_COMPILED_SHAPES
    model.compile(dynamic=False, **options)
