from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.extension import extension
from evenload.workers.cli.session import initial_trials


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[SweepStore]:
    store = SweepStore(settings.store_url)
    store.migrate()
    yield store
    store.close()


def complete(store: SweepStore, digest: str) -> None:
    for kind, state in (
        (WorkKind.TRAIN, TrialState.TRAINED),
        (WorkKind.EVAL, TrialState.COMPLETED),
    ):
        claim = store.claim(digest, kind, "w", 60)
        assert claim is not None
        store.finish(claim, state)


def test_an_extension_only_gives_completed_trials_more_steps(
    settings: Settings, store: SweepStore, sweep: Callable[..., dict[str, Any]]
) -> None:
    spec = SweepSpec.model_validate(sweep())
    trials = initial_trials(spec, settings, has_cuda=False)
    sweep_id = store.add_sweep(spec, trials)
    _, (parent, trial) = trials
    complete(store, parent)

    longer = extension(spec.name, store.trials(sweep_id), steps=40)
    ((digest, found),) = initial_trials(longer, settings, has_cuda=False)
    train = trial.train.model_copy(update={"steps": 40})
    assert found == trial.model_copy(update={"train": train, "extends": parent})
    assert digest not in {known for known, _ in trials}
    store.add_sweep(longer, [(digest, found)])
    assert store.trial(digest).extends == parent
    with pytest.raises(SpecError, match="steps=24: a trial has 24 steps already; choose more"):
        extension(spec.name, store.trials(sweep_id), steps=24)


def test_an_extended_trial_needs_more_steps_than_it_starts_with(
    settings: Settings, store: SweepStore, sweep: Callable[..., dict[str, Any]]
) -> None:
    spec = SweepSpec.model_validate(sweep())
    (parent, _), *_ = trials = initial_trials(spec, settings, has_cuda=False)
    store.add_sweep(spec, trials)
    tree = sweep(axes={"extends": [parent]}, train={"steps": 10})
    with pytest.raises(SpecError, match=r"train\.steps=10: the extended trial .* has 24 steps"):
        initial_trials(SweepSpec.model_validate(tree), settings, has_cuda=False)
