"""Models that a function of the user builds."""

import hashlib
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.other_models import Built, PythonModel
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.model.others.attached import AttachedModel
from evenload.workers.model.others.counted import behind_contract, check_content, counted


def build(spec: TrialSpec) -> AttachedModel:
    """Raises: SpecError: the code has changed, or its model cannot be built or balanced"""
    model = spec.model
    assert isinstance(model, PythonModel)
    check_content(model, _content(model), _what(model))
    return behind_contract(_made(model), spec, call)


def found(model: PythonModel) -> Built:
    """What the model is.  Raises: SpecError"""
    return _built(model.model_dump_json(), _content(model))


def call(module: nn.Module, token_BS: Tensor) -> Tensor:
    """The logits, which models return bare, as an attribute or as the first of several values."""
    output = module(token_BS)
    output = getattr(output, "logits", output)
    return output[0] if isinstance(output, (tuple, list)) else output


@lru_cache(maxsize=64)
def _built(spec: str, content: str) -> Built:
    model = PythonModel.model_validate_json(spec)
    return counted(lambda: _made(model), model.vocab_size, call, content, _what(model))


def _what(model: PythonModel) -> str:
    return f"model.factory={model.factory!r}"


def _made(model: PythonModel) -> nn.Module:
    function = _function(model)
    try:
        module = function(**model.arguments)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        raise SpecError(
            f"{_what(model)} fails: {type(error).__name__}: {error}; check model.arguments"
        ) from None
    if not isinstance(module, nn.Module):
        raise SpecError(f"{_what(model)} returns a {type(module).__name__}, not a torch module")
    return module.to(getattr(torch, model.dtype))


def _function(model: PythonModel) -> Callable[..., Any]:
    module, _, name = model.factory.partition(":")
    try:
        function: Callable[..., Any] = getattr(import_module(module), name)
    except Exception as error:  # noqa: BLE001 - the user's module may raise anything
        raise SpecError(
            f"{_what(model)} cannot be imported: {error}; install its package, or add its folder "
            "to PYTHONPATH, on every worker"
        ) from None
    return function


def _content(model: PythonModel) -> str:
    """Digest of the sources of the function's package, or of its module if that is in none."""
    _function(model)
    module = model.factory.partition(":")[0]
    found = [find_spec(name) for name in (module.partition(".")[0], module)]
    origins = [Path(spec.origin) for spec in found if spec and spec.origin and spec.has_location]
    if not origins:
        raise SpecError(f"{_what(model)}: {module} has no source file; move it to one")
    folder = origins[0].parent
    is_package = origins[0].name == "__init__.py"
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")) if is_package else origins[:1]:
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]
