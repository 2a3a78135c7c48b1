"""Proposes settings with Optuna's tree-structured Parzen estimator.

Every call builds a study from the search history and discards it. So the proposal is a function of
the search space, the history and the seed.
"""

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
    """The next setting: its coordinates and the value of every axis, as from `choose`."""
    study = optuna.create_study(directions=["minimize"] * num_objectives, sampler=_sampler(seed))
    spans = {name: _distribution(span) for name, span in dimensions(axes).items()}
    study.add_trials([_frozen(setting, spans) for setting in history])
    trial = study.ask()

    def asked(name: str, span: Range | int) -> float:
        if isinstance(span, Range):
            return float(trial.suggest_float(name, span.low, span.high, log=span.log))
        return int(trial.suggest_categorical(name, range(span)))

    return choose(axes, asked)


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    """A sampler that estimates coordinates jointly, each choice with the numbers below it.

    Running settings count as bad ones, so that no setting is proposed near them.
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
