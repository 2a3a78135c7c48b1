"""The kinds of models: one entry of `MODELS` each."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from evenload.pipeline.spec.trial import Model, TrialSpec
from evenload.workers.model.contract import RoutedModel
from evenload.workers.model.transformer import MoELanguageModel


class Kind(NamedTuple):
    build: Callable[[TrialSpec], RoutedModel]  # on the CPU, with the weights it starts from
    resolved: Callable[[Any], Model]  # the spec with what the model was found to be


def _own(spec: TrialSpec) -> RoutedModel:
    return MoELanguageModel(spec.own_model, spec.runtime.backend, recompute=spec.train.recompute)


def _other(name: str) -> Kind:
    """A kind in a file of its own, which is read when a trial needs it."""

    def late(function: str) -> Callable[[Any], Any]:
        module = f"evenload.workers.model.others.{name}"
        return lambda argument: getattr(import_module(module), function)(argument)

    return Kind(late("build"), late("resolved"))


MODELS: dict[str, Kind] = {
    "own": Kind(_own, lambda model: model),
    "huggingface": _other("huggingface"),
    "python": _other("factory"),
}


def build_model(spec: TrialSpec) -> RoutedModel:
    """The model of a resolved trial.  Raises: SpecError: it cannot be built here"""
    return MODELS[spec.model.kind].build(spec)
