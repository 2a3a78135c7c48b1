"""The kinds of models: one entry of `MODELS` each."""

from importlib import import_module
from types import ModuleType

from evenload.pipeline.spec.other_models import OtherModel
from evenload.pipeline.spec.trial import Model, TrialSpec
from evenload.workers.model.contract import RoutedModel

# The files with `build(spec)`, and for other models than evenload's own with `found(model)`. They
# are read when a trial needs them: transformers is an extra.
MODELS = {"own": "transformer", "huggingface": "others.huggingface", "python": "others.factory"}


def build_model(spec: TrialSpec) -> RoutedModel:
    """The model of a resolved trial, with the weights that it starts from.

    Raises:   SpecError: it cannot be built here
    """
    return _file(spec.model).build(spec)


def resolved_model(model: Model) -> Model:
    """The spec with what the model was found to be.

    Raises:   SpecError: it cannot be built, or is no mixture of experts that a sweep can train
    """
    if not isinstance(model, OtherModel) or model.built is not None:
        return model
    found = _file(model).found(model)
    sizes = {"num_experts": found.num_experts, "top_k": found.top_k}
    return model.model_copy(update={"built": found, **sizes})


def _file(model: Model) -> ModuleType:
    return import_module(f"evenload.workers.model.{MODELS[model.kind]}")
