"""The outcome of a sweep, for comparison with one that nothing disturbed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from evenload.pipeline.records.run import RunIdentity, Sink
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import AttemptState, TrialRecord, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.projection import projecting
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.cli.session import initial_trials, open_store
from tests.small_model import SMALL_MODEL

# Figures with these words depend on the clock, the power meter or outages. Others must be equal.
TIMED = ("second", "joule", "watt", "energy", "tracking_errors", "flops")
STATUS = {TrialState.COMPLETED: "FINISHED", TrialState.FAILED: "FAILED"}

BASE: dict[str, Any] = {
    "model": SMALL_MODEL,
    "data": {"kind": "synthetic", "num_tokens": 200_000, "vocab_size": 32, "num_domains": 2},
    "train": {"steps": 300, "batch_sequences": 4, "seq_len": 32},
    "balancer": {"kind": "none"},
    "eval": {"tokens": 4096, "by_k": "every", "by_k_tokens": 4096},
    "runtime": {"device": "cpu", "log_every": 20, "checkpoint_every": 20},
}
RULES = [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}]


def sweep(name: str, seeds: list[int], steps: int) -> SweepSpec:
    """A sweep of two rules at these seeds. Its trials may lose any number of workers."""
    base = BASE | {"train": BASE["train"] | {"steps": steps}}
    axes = {"train.seed": seeds, "balancer": RULES}
    return SweepSpec(name=name, base=base, axes=axes, max_retries=1000, stacking="off")


class Outcome(NamedTuple):
    """States, figures, and the counts of every expert at every step, by rule and seed."""

    states: dict[str, TrialState]
    figures: dict[str, dict[str, float]]
    counts: dict[str, bytes]


def outcome(store: SweepStore, settings: Settings, sweep_id: str) -> Outcome:
    trials = {_name(trial): trial for trial in store.trials(sweep_id)}
    return Outcome(
        {name: trial.state for name, trial in trials.items()},
        {
            name: {
                figure: value
                for figure, value in trial.result.items()
                if not any(word in figure for word in TIMED)
            }
            for name, trial in trials.items()
        },
        {
            name: read_history(settings.trial_dir(trial.digest)).count_SLE.tobytes()
            for name, trial in trials.items()
        },
    )


def _name(trial: TrialRecord) -> str:
    return f"{trial.label}, seed {trial.spec['train']['seed']}"


def undisturbed(spec: SweepSpec, home: Path) -> tuple[Outcome, Settings]:
    """Runs the sweep in this process, without a cluster, one trial after the other."""
    settings = Settings(home=home)
    store = open_store(settings, create=True)
    trials = initial_trials(spec, settings)
    sweep_id = store.add_sweep(spec, trials)

    def sinks(settings: Settings, run: RunIdentity) -> Sink:
        return default_sinks(settings, run)

    with projecting(store, settings):
        for digest, _ in trials:
            assert TrainActor("here", settings, sinks).work(digest) is TrialState.TRAINED
            assert EvalActor("here", settings, sinks).work(digest) is TrialState.COMPLETED
        store.finish_sweep(sweep_id)
    found = outcome(store, settings, sweep_id)
    store.close()
    return found, settings


def check_attempts(store: SweepStore, sweep_id: str) -> None:
    """Asserts that every trial was trained to its end once and evaluated once."""
    for trial in store.trials(sweep_id):
        done = [a.kind for a in store.attempts(trial.digest) if a.state is AttemptState.DONE]
        assert done == [WorkKind.TRAIN, WorkKind.EVAL], trial.digest


def check_runs(database: Path, store: SweepStore, sweep_id: str) -> None:
    """Asserts that MLflow has one run per trial with each step once and the right status."""
    for trial in store.trials(sweep_id):
        tags = "SELECT run_uuid FROM tags WHERE key = 'digest' AND value = ?"
        (run_id,) = _column(database, tags, trial.digest)
        (status,) = _column(database, "SELECT status FROM runs WHERE run_uuid = ?", run_id)
        assert status == STATUS[trial.state], trial.digest
        doubled = (
            "SELECT key FROM metrics WHERE run_uuid = ? GROUP BY key, step HAVING count(*) > 1"
        )
        assert _column(database, doubled, run_id) == []
        steps = "SELECT step FROM metrics WHERE run_uuid = ? AND key = 'loss' ORDER BY step"
        train, every = trial.spec["train"]["steps"], trial.spec["runtime"]["log_every"]
        assert _column(database, steps, run_id) == sorted({*range(every, train, every), train})


def finished_too_early(database: Path, store: SweepStore, sweep_id: str) -> list[str]:
    """Digests of incomplete trials whose run is FINISHED."""
    query = (
        "SELECT tags.value FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE runs.status = 'FINISHED' AND tags.key = 'digest'"
    )
    finished = set(_column(database, query))
    return [
        trial.digest
        for trial in store.trials(sweep_id)
        if trial.digest in finished and trial.state is not TrialState.COMPLETED
    ]


def _column(database: Path, query: str, *values: str) -> list[Any]:
    if not database.exists():  # MLflow's tables are not made yet, and connecting makes a file
        return []
    with closing(sqlite3.connect(database, timeout=30)) as connection:
        return [row[0] for row in connection.execute(query, values)]
