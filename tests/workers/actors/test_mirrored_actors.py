"""Workers without a shared disk: one starts a trial, another ends it, a third evaluates it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor

TIMED = {"train_seconds", "tokens_per_second"}


def sinks(settings: Settings, run: RunIdentity) -> LoadLogSink:
    return LoadLogSink(settings.trial_dir(run.digest))


def figures(store: SweepStore, digest: str) -> dict[str, float]:
    result = store.trial(digest).result
    return {name: value for name, value in result.items() if name not in TIMED}


def test_a_trial_on_three_hosts_in_turn_ends_as_on_one(
    settings: Settings, store: SweepStore, add_sweep: Callable[..., str], tmp_path: Path
) -> None:
    add_sweep([10, 5], axis="runtime.log_every")  # the same trial twice except for its telemetry
    url = f"memory://{uuid4()}"
    hosts = [
        settings.model_copy(
            update={"home": tmp_path / name, "mirror_url": url, "database_url": settings.store_url}
        )
        for name in ("first", "second", "third")
    ]
    seen = 0

    def stop_in_the_middle(*facts: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == 3:
            first.request_stop()

    first = TrainActor("train-1", hosts[0], sinks, watch=stop_in_the_middle)
    assert first.work("t0") is TrialState.QUEUED
    assert TrainActor("train-2", hosts[1], sinks).work("t0") is TrialState.TRAINED
    assert "starts after step 3" in (
        hosts[1].trial_dir("t0") / "logs" / "attempt-002-train.log"
    ).read_text(encoding="utf-8")
    assert EvalActor("eval-1", hosts[2], sinks).work("t0") is TrialState.COMPLETED
    assert (store.trial("t0").checkpoint_uri or "").startswith(url)

    assert TrainActor("train-3", settings, sinks).work("t1") is TrialState.TRAINED
    assert EvalActor("eval-2", settings, sinks).work("t1") is TrialState.COMPLETED
    assert figures(store, "t0") == figures(store, "t1")
