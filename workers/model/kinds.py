"""The kinds of models: one entry of `MODELS` each, with the function that builds one."""

from __future__ import annotations

from collections.abc import Callable

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.model.contract import RoutedModel
from evenload.workers.model.transformer import MoELanguageModel


def _own(spec: TrialSpec) -> RoutedModel:
    return MoELanguageModel(spec.model, spec.runtime.backend, recompute=spec.train.recompute)


MODELS: dict[str, Callable[[TrialSpec], RoutedModel]] = {"own": _own}


def build_model(spec: TrialSpec) -> RoutedModel:
    """The model of a resolved trial, on the CPU, with the weights that it starts from."""
    return MODELS[spec.model.kind](spec)
