"""Secrets from the environment or a URL never appear in the files of a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.projection import projecting
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor

PLANTED = "planted-7f3a9c"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RAY_AUTH_TOKEN", "HF_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, PLANTED)
    yield
    assert os.environ["HF_TOKEN"] == PLANTED


def files_with_the_secret(folder: Path) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5, "there must be files to search"
    return [
        str(path.relative_to(folder)) for path in files if PLANTED.encode() in path.read_bytes()
    ]


class LeakySink(LoadLogSink):
    """Logs and prints a secret, and may raise an error that contains it."""

    def __init__(self, trial_dir: Path, fails: bool) -> None:
        super().__init__(trial_dir)
        self._fails = fails

    def start(self, run: RunIdentity) -> None:
        super().start(run)
        logging.getLogger("evenload.workers.leaky").warning("connecting with %s", PLANTED)
        print(f"http://me:{PLANTED}@mlflow:5000")

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        super().log_steps(records)
        if self._fails:
            raise ConnectionError(f"no answer from http://me:{PLANTED}@mlflow:5000")


@pytest.mark.usefixtures("planted")
def test_files_of_a_trial_that_logs_prints_and_raises_a_secret_do_not_contain_it(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    settings = settings.model_copy(update={"tracking_uri": f"http://me:{PLANTED}@127.0.0.1:1"})
    sweep_id = add_sweep([0, 1])

    def sinks(settings: Settings, run: RunIdentity) -> LeakySink:
        return LeakySink(settings.trial_dir(run.digest), fails=run.digest == "t1")

    actor = TrainActor("a", settings, sinks)
    assert actor.work("t0") is TrialState.TRAINED
    assert [actor.work("t1") for _ in range(2)] == [TrialState.QUEUED, TrialState.FAILED]
    error = str(store.trials(sweep_id)[1].error)
    assert "no answer from http://me:***@mlflow:5000" in error
    log = (settings.trial_dir("t0") / "logs" / "attempt-001-train.log").read_text()
    assert "connecting with ***" in log
    assert "http://me:***@mlflow:5000" in log
    assert files_with_the_secret(settings.root) == []


@pytest.mark.usefixtures("planted")
def test_mlflow_never_gets_a_secret(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str]
) -> None:
    sweep_id = add_sweep([0])
    with projecting(store, settings):
        TrainActor("a", settings, default_sinks).work("t0")
        EvalActor("a", settings, default_sinks).work("t0")
    assert store.trials(sweep_id)[0].state is TrialState.COMPLETED
    assert (settings.root / "mlflow.db").exists()
    assert files_with_the_secret(settings.root) == []
