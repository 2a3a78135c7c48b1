"""Optuna's tree-structured Parzen estimator, asked with what the store knows and nothing else.

Optuna keeps no storage here: a study is built from the rows for every question and forgotten, so
the answer is a function of the space, the rows and the seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from evenload.pipeline.spec.search_space import Axes, Coordinates, Range, choose, dimensions
from evenload.pipeline.sweep.search_history import KnownSetting

optuna.logging.set_verbosity(optuna.logging.WARNING)


def propose(
    axes: Axes, history: Sequence[KnownSetting], num_objectives: int, seed: int
) -> tuple[Coordinates, dict[str, Any]]:
    """The next setting, as `choose` gives it: its coordinates and the value of every axis."""
    study = optuna.create_study(directions=["minimize"] * num_objectives, sampler=_sampler(seed))
    spans = {name: _distribution(span) for name, span in dimensions(axes).items()}
    study.add_trials([_frozen(setting, spans) for setting in history])
    return choose(axes, _Asked(study.ask()))


class _Asked:
    """A chooser that lets the estimator decide."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def choice(self, name: str, count: int) -> int:
        return int(self._trial.suggest_categorical(name, range(count)))

    def number(self, name: str, span: Range) -> float:
        return float(self._trial.suggest_float(name, span.low, span.high, log=span.log))


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    """Estimates coordinates jointly, each choice with the numbers inside it.

    Settings that run count as bad ones: what is under way is not proposed again beside it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=0, multivariate=True, group=True, constant_liar=True
        )


def _distribution(span: Range | int) -> BaseDistribution:
    if isinstance(span, Range):
        return FloatDistribution(span.low, span.high, log=span.log)
    return CategoricalDistribution(range(span))


def _frozen(
    setting: KnownSetting, spans: Mapping[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    states = optuna.trial.TrialState
    ended = states.PRUNED if setting.objectives is None else states.COMPLETE
    return optuna.trial.create_trial(
        state=states.RUNNING if setting.is_running else ended,
        values=setting.objectives,
        params=setting.coordinates,
        distributions={name: spans[name] for name in setting.coordinates},
        constraints=dict(setting.violations),
    )
