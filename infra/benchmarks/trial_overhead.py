"""Measures the overhead of a trial: shards, MLflow, checkpoints, heartbeats, the coordinator."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.plan import Crew, plan
from evenload.workers.data.corpus import prepare
from evenload.workers.data.shards import Batches
from evenload.workers.training.loop import train
from evenload.workers.training.schedule import learning_rate
from evenload.workers.training.setup import assemble
from evenload.workers.training.step import train_step
from evenload.workers.tuning.timing import every_turn, timing

CPU = torch.device("cpu")
POLL_SECONDS = 0.5  # interval of a coordinator that runs a sweep
REPEATS = 20


def overhead(quick: bool) -> dict[str, Any]:
    """Compares a trial with all sinks with a bare loop over the same model, data and steps.

    Both build their model. Other work of the machine changes their ratio more than tracking does,
    so there is a second figure: the whole time of a trial divided by that of its steps. Heartbeat
    and coordinator are timed alone and given as the share of a core at their usual interval.
    """
    spec = _trial(steps=4 if quick else 150)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        prepare(spec.data, settings.corpus_dir)
        tracked = _Tracked(spec, settings)
        tracked()  # creates MLflow's database
        tracked.over_own_steps.clear()
        seconds = every_turn(
            {"bare": lambda: bare_loop(spec, settings), "tracked": tracked}, CPU, 1 if quick else 9
        )
        beat, round_ = _store_seconds(spec, settings)
    extra = [
        full / bare - 1 for full, bare in zip(seconds["tracked"], seconds["bare"], strict=True)
    ]
    return {
        "steps": spec.train.steps,
        "bare_seconds": timing(seconds["bare"])._asdict(),
        "over_bare_loop": timing(extra)._asdict(),
        "over_own_steps": timing(tracked.over_own_steps)._asdict(),
        "heartbeat_share": beat / settings.heartbeat_seconds,
        "coordinator_share": round_ / POLL_SECONDS,
    }


def bare_loop(spec: TrialSpec, settings: Settings) -> None:
    """Takes the steps of a trial and does nothing else."""
    corpus = prepare(spec.data, settings.corpus_dir)
    assembly = assemble(spec)
    train_spec, state = spec.train, assembly.state
    batches = Batches(corpus.train, train_spec.seq_len, train_spec.seed)
    for step in range(1, train_spec.steps + 1):
        for group in assembly.trainee.optimizer.param_groups:
            group["lr"] = learning_rate(train_spec, step)
        start = (step - 1) * train_spec.batch_sequences
        token_BS = torch.from_numpy(batches.take(start, train_spec.batch_sequences))
        _, state = train_step(assembly.trainee, state, [token_BS], step / train_spec.steps)


class _Tracked:
    """Trains the trial like a worker; each call trains a new one."""

    def __init__(self, spec: TrialSpec, settings: Settings) -> None:
        self._spec = spec
        self._settings = settings
        self._number = 0
        self.over_own_steps: list[float] = []

    def __call__(self) -> None:
        started = time.perf_counter()
        self._number += 1
        digest = f"{self._number:016x}"
        run = RunIdentity(
            digest=digest,
            name=digest,
            sweep_id=None,
            attempt=1,
            spec=self._spec.model_dump(mode="json"),
        )
        sink = default_sinks(self._settings, run)
        outcome = train(
            self._spec,
            settings=self._settings,
            digest=digest,
            sink=sink,
            report=_continue,
            run=run,
        )
        sink.close()
        whole_seconds = time.perf_counter() - started
        self.over_own_steps.append(whole_seconds / outcome.result["train_seconds"] - 1)


def _continue(_: Progress) -> Command:
    return Command.CONTINUE


def _store_seconds(spec: TrialSpec, settings: Settings) -> tuple[float, float]:
    """Seconds of a heartbeat, and of a coordinator's round over a sweep of 16 trials."""
    store = SweepStore(settings.store_url)
    store.migrate()
    base = spec.model_dump(mode="json")
    sweep = SweepSpec(name="overhead", base=base, axes={"train.seed": list(range(16))})
    store.add_sweep(sweep, [(f"t{at}", trial) for at, trial in enumerate(sweep.expand())])
    claim = store.claim("t0", WorkKind.TRAIN, "worker", 60)
    assert claim is not None
    progress = Progress(1, spec.train.steps, 1, 1.0, 1.0, 1.0)

    def decide() -> None:
        snapshot = store.snapshot(None)
        plan(snapshot, Crew())

    beats = [_seconds(lambda: store.heartbeat(claim, progress, 60)) for _ in range(REPEATS)]
    rounds = [_seconds(decide) for _ in range(REPEATS)]
    store.close()
    return median(beats), median(rounds)


def _seconds(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _trial(steps: int) -> TrialSpec:
    """A trial like those of the quickstart, but with synthetic data that costs no time to read."""
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny"},
            "data": {"kind": "synthetic", "vocab_size": 256, "num_tokens": 2_000_000},
            "balancer": {"kind": "sign", "step_size": 0.01},
            "train": {"steps": steps, "batch_sequences": 32, "seq_len": 128, "warmup_steps": 3},
            "runtime": {"device": "cpu", "backend": "torch", "threads": 1},
        }
    )
