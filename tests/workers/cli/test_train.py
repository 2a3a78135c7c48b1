"""`evenload train`: its claim on the trial, input that it refuses, and `--record-scores`."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import text

from evenload.pipeline.client import Client
from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.scores import read_recording
from evenload.pipeline.states import AttemptState, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore


def test_a_recording_that_cannot_be_written_is_refused_before_training(
    here: Any, sweep: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    trial = here.write("trial.yaml", sweep()["base"])
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder").mkdir()
    for path, reason in [("a-file/scores.npz", "File exists"), ("a-folder", "Is a directory")]:
        ended = here("train", trial, "--record-scores", path)
        assert ended.code == 2
        assert ended.err == (
            f"error: --record-scores {path}: {reason}; give a file that can be written\n"
        )
    assert not (tmp_path / ".evenload").exists()


def test_scores_of_a_finished_trial_are_recorded_by_training_it_again(
    here: Any, sweep: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The second training gives the same numbers and does not change the stored trial."""
    balancer = {"kind": "sign", "step_size": 0.01}
    trial = here.write("trial.yaml", sweep()["base"] | {"balancer": balancer})
    first = here("train", trial, "--json")
    assert first.code == 0, first.err
    again = here("train", trial, "--json", "--record-scores", "scores.npz")
    assert again.code == 0, again.err
    assert "training it once more, only to record" in again.err
    assert again.document == first.document
    assert not list((tmp_path / ".evenload").glob("recording-*"))

    recording = read_recording(tmp_path / "scores.npz")
    stored = Client(home=tmp_path / ".evenload").loads(first.document["trials"][0]["digest"])
    np.testing.assert_array_equal(recording.bias_NLE, stored.bias_SLE)
    assert recording.score_NLTE.shape[0] == 24
    assert np.abs(recording.bias_NLE[-1]).max() > 0.05, "the biases must have moved"


def test_a_trial_that_extends_another_is_not_recorded(
    here: Any, sweep: Callable[..., dict[str, Any]]
) -> None:
    trial = here.write("trial.yaml", sweep()["base"] | {"extends": "0123456789abcdef"})
    ended = here("train", trial, "--record-scores", "scores.npz")
    assert ended.code == 2
    assert "this one extends 0123456789abcdef; remove extends" in ended.err


class Trial:
    """A trial file, and what the store has of it once `train` has registered it."""

    def __init__(self, here: Any, base: dict[str, Any], folder: Path) -> None:
        self.file = here.write("trial.yaml", base)
        self.store = SweepStore(f"sqlite:///{folder / '.evenload' / 'evenload.db'}")

    @property
    def row(self) -> TrialRecord:
        (sweep,) = self.store.sweeps()
        (row,) = self.store.trials(sweep.sweep_id)
        return row

    def when(self, state: TrialState, call: Callable[[], object]) -> threading.Thread:
        """Calls from a thread once the trial is in this state."""

        def watch() -> None:
            while True:
                with suppress(SpecError, ValueError):
                    if self.row.state is state and self.row.progress:
                        break
                time.sleep(0.05)
            call()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def trial(
    here: Any,
    sweep: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Trial:
    monkeypatch.setenv("EVENLOAD_HEARTBEAT_SECONDS", "0.1")
    monkeypatch.setenv("EVENLOAD_LEASE_SECONDS", "1")
    return Trial(here, sweep(train={"steps": 4000})["base"], tmp_path)


def test_a_signal_hands_the_trial_back_with_a_checkpoint_and_exits_with_1(
    here: Any, trial: Trial
) -> None:
    interrupt = trial.when(TrialState.TRAINING, lambda: os.kill(os.getpid(), signal.SIGINT))
    ended = here("train", trial.file)
    interrupt.join()
    assert ended.code == 1
    assert "SIGINT: waiting for workers to write checkpoints" in ended.err
    assert re.search(r"stopped: \w+ is released with a checkpoint of step \d+;", ended.err)
    assert "the same command goes on from there" in " ".join(ended.err.split())
    assert (trial.row.state, trial.row.failures) == (TrialState.QUEUED, 0)
    (attempt,) = trial.store.attempts(trial.row.digest)
    assert attempt.state is AttemptState.RELEASED
    assert list(Path(".evenload", "trials", trial.row.digest, "checkpoints").glob("step-*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_train_goes_on_where_a_killed_one_ended(
    evenload: Any,
    sweep: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """A lease would last an hour, so the second call must have seen that the process is dead."""
    monkeypatch.setenv("EVENLOAD_HEARTBEAT_SECONDS", "0.2")
    monkeypatch.setenv("EVENLOAD_LEASE_SECONDS", "3600")
    trial = Trial(evenload, sweep(train={"steps": 500})["base"], tmp_path)
    process = evenload.start("train", trial.file)
    trial.when(TrialState.TRAINING, lambda: process.send_signal(number)).join()
    process.communicate(timeout=240)  # SIGTERM still makes MLflow's database, on a busy machine
    assert process.returncode != 0
    ended = evenload("train", trial.file)
    assert ended.code == 0, ended.err
    first, *_ = trial.store.attempts(trial.row.digest)
    if number is signal.SIGKILL:
        assert (first.state, first.exit_reason) == (AttemptState.LOST, "its coordinator ended")
    assert (trial.row.state, trial.row.failures) == (TrialState.COMPLETED, 0)


@pytest.mark.slow
def test_a_trial_that_another_process_has_is_waited_for_and_said_so(
    here: Any, sweep: Callable[..., dict[str, Any]], trial: Trial, tmp_path: Path
) -> None:
    trial.file = here.write("trial.yaml", sweep()["base"])
    assert here("train", trial.file, "--json").code == 0
    with trial.store._transaction(writes=True) as connection:
        connection.execute(text("UPDATE trial SET state = 'queued', finished_at = NULL"))
        connection.execute(text("UPDATE sweep SET state = 'active', finished_at = NULL"))
    other = trial.store.claim(trial.row.digest, WorkKind.TRAIN, "w@elsewhere:0:0:1", 1.0)
    assert other is not None
    ended = here("train", trial.file, "--json")
    assert "is training by w@elsewhere:0:0:1" in ended.err
    assert ended.code == 0, ended.err
    assert trial.row.state is TrialState.COMPLETED
    assert trial.row.failures == 1


@pytest.mark.slow
def test_a_trial_that_does_not_go_on_is_no_success(
    here: Any, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused or cancelled while it trains, or before."""

    def pause() -> None:
        (sweep,) = trial.store.sweeps()
        trial.store.pause(sweep.sweep_id)

    trial.when(TrialState.TRAINING, pause)
    for _ in ("while it trains", "before"):
        ended = here("train", trial.file, "--json")
        (sweep,) = trial.store.sweeps()
        assert ended.code == 1
        assert ended.document == {"error": "it failed; standard error says why"}
        assert f"{sweep.sweep_id} is paused: by its user" in ended.err
        assert f"evenload sweep resume {sweep.sweep_id}" in ended.err
