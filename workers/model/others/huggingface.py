"""Causal language models of the transformers library, from a folder on this machine."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import require
from evenload.pipeline.spec.other_models import Built, HuggingFaceModel
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.model.others.attached import AttachedModel
from evenload.workers.model.others.counted import behind_contract, check_content, counted

# What model types call the two numbers that every one of them has.
NUM_EXPERTS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_top_k", "moe_k")
WEIGHTS = ("*.safetensors", "*.bin")
COUNTABLE = "batched_mm"  # of transformers' ways to run experts, the one that needs no values


def build(spec: TrialSpec) -> AttachedModel:
    """Raises: SpecError: the folder has changed, or its model cannot be loaded or balanced"""
    model = spec.model
    assert isinstance(model, HuggingFaceModel)
    check_content(model, _content(model), _what(model))
    module = _loaded(model) if model.weights else _fresh(model)
    if spec.train.recompute:
        name = "activation_checkpointing_enable"  # before transformers 5.23: gradient_...
        enable = getattr(module, name, None) or module.gradient_checkpointing_enable
        enable(**{f"{enable.__name__.removesuffix('_enable')}_kwargs": {"use_reentrant": False}})
    return behind_contract(module, spec, call)


def found(model: HuggingFaceModel) -> Built:
    """What the model is.  Raises: SpecError"""
    require("transformers")
    built = _built(model.model_dump_json(), _content(model))
    for name in ("num_experts", "top_k"):
        asked = getattr(model, name)
        if asked not in (0, getattr(built, name)):
            raise SpecError(
                f"model.{name}={asked}: the model was built with {getattr(built, name)}; set the "
                "key of its own under model.config"
            )
    return built.model_copy(update={"changes": _changes(model)})


def call(module: nn.Module, token_BS: Tensor) -> Tensor:
    return module(input_ids=token_BS, use_cache=False).logits


@lru_cache(maxsize=64)
def _built(spec: str, content: str) -> Built:
    model = HuggingFaceModel.model_validate_json(spec)
    config = _config(model)
    return counted(
        lambda: _fresh(model, experts_implementation=COUNTABLE),
        config.get_text_config().vocab_size,
        # Without a cache transformers looks at the positions, which have no values.
        lambda module, token_BS: module(input_ids=token_BS, use_cache=True).logits,
        content,
        _what(model),
    )


def _what(model: HuggingFaceModel) -> str:
    return f"model.path={str(model.path)!r}"


def _content(model: HuggingFaceModel) -> str:
    """Digest of the configuration, and of the weights if training starts from them.

    Raises:   SpecError: the folder lacks one of them
    """
    path = model.path / "config.json"
    if not path.is_file():
        raise SpecError(
            f"{_what(model)}: no config.json there; name a folder with one, as save_pretrained "
            "writes it (nothing is downloaded)"
        )
    files = [path]
    if model.weights:
        weights = sorted(file for pattern in WEIGHTS for file in model.path.glob(pattern))
        if not weights:
            raise SpecError(
                f"{_what(model)}: no weights there ({', '.join(WEIGHTS)}); set model.weights: "
                "false to train from random ones"
            )
        files += weights
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def _read(model: HuggingFaceModel, **changes: Any) -> Any:
    """The folder's configuration with these changes.  Raises: SpecError: it does not allow them"""
    from transformers import AutoConfig

    with _told(model):
        return AutoConfig.from_pretrained(model.path, local_files_only=True, **changes)


@contextmanager
def _told(model: HuggingFaceModel) -> Iterator[None]:
    """What transformers raises, of many kinds, becomes a SpecError on one line."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - by what is wrong with configuration or files
        raise SpecError(f"{_what(model)}: {' '.join(str(error).split())}") from None


def _config(model: HuggingFaceModel) -> Any:
    """The configuration as asked.  Raises: SpecError: unknown key, ..."""
    return _read(model, **(model.built.changes if model.built else _changes(model)))


def _changes(model: HuggingFaceModel) -> dict[str, Any]:
    """The asked changes by the configuration's own names."""
    config = _read(model)
    keys = config.to_dict().keys() | config.attribute_map.keys()
    changes = dict(model.config)
    for name, names in (("num_experts", NUM_EXPERTS), ("top_k", TOP_K)):
        if value := getattr(model, name):
            changes[_key_of(model, name, names, keys)] = value
    for key, value in changes.items():
        if key not in keys:
            raise SpecError(
                f"model.config.{key}={json.dumps(value)}: {config.model_type} has no such key; "
                f"it has {', '.join(sorted(keys))}"
            )
    return changes


def _key_of(model: HuggingFaceModel, name: str, names: tuple[str, ...], keys: set[str]) -> str:
    for key in names:
        if key in keys:
            return key
    raise SpecError(
        f"model.{name}={getattr(model, name)}: {_what(model)} has none of {', '.join(names)} in "
        "its configuration; set the key of its own under model.config"
    )


def _fresh(model: HuggingFaceModel, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    config, dtype = _config(model), getattr(torch, model.dtype)
    with _told(model):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, **options)


def _loaded(model: HuggingFaceModel) -> Any:
    """The model with the folder's weights.  Raises: SpecError: they do not fit"""
    from transformers import AutoModelForCausalLM

    options = {"config": _config(model), "dtype": getattr(torch, model.dtype)}
    with _told(model):
        module, loading = AutoModelForCausalLM.from_pretrained(
            model.path, local_files_only=True, output_loading_info=True, **options
        )
    if missing := sorted(loading["missing_keys"]):
        raise SpecError(
            f"{_what(model)}: the weights lack {missing[0]} and {len(missing) - 1} more; set "
            "model.weights: false, or undo the changes of its configuration"
        )
    return module
