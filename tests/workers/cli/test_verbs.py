"""What the verbs of a sweep say, and why a run of a paused or cancelled sweep ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli import sweep_runner

Sweep = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / ".evenload")


@pytest.fixture
def store(settings: Settings) -> Iterator[SweepStore]:
    settings.make_home()
    store = SweepStore(settings.store_url)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def sweep_id(store: SweepStore, sweep: Sweep) -> str:
    spec = SweepSpec.model_validate(sweep())
    return store.add_sweep(spec, [(f"t{at}", trial) for at, trial in enumerate(spec.expand())])


def failed(store: SweepStore, digest: str) -> None:
    claim = store.claim(digest, WorkKind.TRAIN, "w", 60)
    assert claim is not None
    store.finish(claim, TrialState.FAILED, error="Traceback\nOSError: [Errno 28] no space")


def test_every_verb_says_what_it_did_and_how_many_trials_it_touched(
    here: Any, store: SweepStore, sweep_id: str
) -> None:
    def said(*verb: str) -> tuple[int, str]:
        ended = here("sweep", *verb)
        return ended.code, " ".join(ended.err.split())

    trial = f"trial t0 of {sweep_id}"
    assert said("pause", sweep_id) == (0, f"{sweep_id}: paused; 2 trials touched")
    assert said("pause", sweep_id) == (0, f"{sweep_id}: paused; no trial touched")
    assert said("resume", sweep_id) == (0, f"{sweep_id}: resumed; 2 trials touched")
    assert said("priority", sweep_id, "3") == (0, f"{sweep_id}: priority 3; 2 trials touched")
    assert said("cancel", sweep_id, "--trial", "t0") == (0, f"{trial}: cancelled; 1 trial touched")
    assert said("cancel", sweep_id, "--trial", "t0") == (0, f"{trial}: cancelled; no trial touched")
    assert said("resume", sweep_id, "--trial", "t0") == (0, f"{trial}: resumed; 1 trial touched")
    assert said("retry", sweep_id) == (0, f"{sweep_id}: no trial has failed; no trial touched")
    failed(store, "t0")
    assert said("retry", sweep_id) == (0, f"{sweep_id}: queued again; 1 trial touched")
    assert said("stop", sweep_id) == (0, f"{sweep_id}: stopped; 2 trials touched")


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel"])
def test_every_verb_refuses_a_finished_sweep(
    here: Any, store: SweepStore, sweep_id: str, verb: str
) -> None:
    store.stop(sweep_id)
    assert store.finish_sweep(sweep_id)
    ended = here("sweep", verb, sweep_id)
    assert ended.code == 2
    assert f"error: sweep {sweep_id} is finished and cannot become" in ended.err


def test_a_run_that_a_pause_ends_names_the_reason_the_last_error_and_its_log(
    store: SweepStore, settings: Settings, sweep_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_runner.check_goes_on(store, settings, sweep_id)
    failed(store, "t1")
    store.pause(sweep_id, note="paused: its last 5 attempts failed")
    with pytest.raises(typer.Exit) as ended:
        sweep_runner.check_goes_on(store, settings, sweep_id)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{sweep_id} is paused: its last 5 attempts failed",
        "last error: OSError: [Errno 28] no space",
        f"its log: {settings.trial_dir('t1') / 'logs' / 'attempt-001-train.log'}",
        f"`evenload sweep resume {sweep_id}`, then the same command goes on",
    ]


def test_a_run_of_a_sweep_that_was_cancelled_meanwhile_fails(
    store: SweepStore, settings: Settings, sweep_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store.cancel(sweep_id)
    with pytest.raises(typer.Exit) as ended:
        sweep_runner.check_goes_on(store, settings, sweep_id)
    assert ended.value.exit_code == 1
    assert f"{sweep_id} was cancelled" in capsys.readouterr().err
