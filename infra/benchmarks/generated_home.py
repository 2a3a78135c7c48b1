"""Generates a home with one very long run, some small ones, and one very wide sweep.

Loads are multinomial draws with a skew that a sign rule works against, and a spike every thousand
steps. They are written with the sinks of a worker.

Shape suffixes: P patterns, L expert layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.series_sink import PooledLoadSink
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

PATTERNS = 500  # number of different steps, which a run repeats
RECORDS_AT_ONCE = 50
LEASE_SECONDS = 36_000.0


def build(home: Path, *, steps: int, layers: int, experts: int, trials: int) -> dict[str, str]:
    """Fills an empty home.

    Returns:  ids: `run` of the long run, `small` of three short ones (with commas), `sweep`
    """
    settings = Settings(home=home)
    settings.root.mkdir(parents=True, exist_ok=True)
    store = SweepStore(settings.store_url)
    store.migrate()
    try:
        long = _finished(store, settings, _long_run(steps, layers, experts), records=True)
        small = _finished(store, settings, _small_runs(), records=True)
        wide = _finished(store, settings, _wide_sweep(trials), records=False)
    finally:
        store.close()
    return {"run": long[1][0], "small": ",".join(small[1]), "sweep": wide[0]}


def _long_run(steps: int, layers: int, experts: int) -> SweepSpec:
    model = {"num_layers": layers + 1, "num_experts": experts, "top_k": 6, "d_expert": 16}
    return _sweep("long-run", {"model": model, "steps": steps}, {"balancer.step_size": [1e-3]})


def _small_runs() -> SweepSpec:
    return _sweep("small-runs", {"model": {}, "steps": 300}, {"model.num_experts": [8, 16, 32]})


def _wide_sweep(trials: int) -> SweepSpec:
    experts = [8, 16, 32, 64, 128]
    sizes = np.geomspace(1e-4, 1e-1, max(1, trials // len(experts))).tolist()
    axes = {"model.num_experts": experts, "balancer.step_size": sizes}
    return _sweep("wide-sweep", {"model": {}, "steps": 400}, axes)


def _sweep(name: str, base: dict[str, Any], axes: dict[str, Any]) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": name,
            "base": {
                "model": {"preset": "tiny"} | base["model"],
                "train": {"steps": base["steps"], "batch_sequences": 64, "seq_len": 128},
                "balancer": {"kind": "sign", "step_size": 1e-3},
                "runtime": {"backend": "torch", "device": "cpu"},
            },
            "axes": axes,
        }
    )


def _finished(
    store: SweepStore, settings: Settings, spec: SweepSpec, *, records: bool
) -> tuple[str, list[str]]:
    trials = [(trial.digest("generated", "benchmark"), trial) for trial in spec.expand()]
    sweep_id = store.add_sweep(spec, trials)
    for position, (digest, trial) in enumerate(trials):
        if records:
            _record(settings.trial_dir(digest), digest, trial)
        figures = _figures(position, trial)
        for kind, state in (
            (WorkKind.TRAIN, TrialState.TRAINED),
            (WorkKind.EVAL, TrialState.COMPLETED),
        ):
            claim = store.claim(digest, kind, "generated", LEASE_SECONDS)
            assert claim is not None
            store.finish(claim, state, figures)
    store.finish_sweep(sweep_id)
    return sweep_id, [digest for digest, _ in trials]


def _figures(position: int, trial: TrialSpec) -> dict[str, float]:
    """Plausible final figures: quadratic in the log of the step size, lower with more experts."""
    size = math.log10(trial.balancer.step or 1e-3) + 2.5
    loss = 2.9 + 0.02 * size**2 - 0.01 * math.log2(trial.model.num_experts)
    vio = 0.1 + 0.3 * abs(size) + 0.01 * (position % 7)
    return {
        "val_bits_per_byte": loss,
        "val_loss": loss * math.log(2),
        "max_vio": vio,
        "max_vio_floor": 0.08,
        "max_vio_global": 0.8 * vio,
        "idle_frac": max(0.0, 0.02 * abs(size) - 0.02),
        "effective_util": 1 / (1 + vio),
        "tokens_per_second": 30_000.0 + 10 * position,
        "train_seconds": 80.0,
        "steps": float(trial.train.steps),
    }


def _record(folder: Path, digest: str, trial: TrialSpec) -> None:
    run = RunIdentity(digest, trial.balancer.label, None, 1, trial.model_dump(mode="json"))
    shards, pooled = LoadLogSink(folder, part_steps=RECORDS_AT_ONCE), PooledLoadSink(folder)
    for sink in (shards, pooled):
        sink.start(run)
    batch: list[StepRecord] = []
    for record in _steps(trial):
        batch.append(record)
        if len(batch) == RECORDS_AT_ONCE or record.step == trial.train.steps:
            shards.log_steps(batch)
            pooled.log_steps(batch)
            batch = []
    for sink in (shards, pooled):
        sink.close()


def _steps(trial: TrialSpec) -> Iterator[StepRecord]:
    L, E = trial.model.num_moe_layers, trial.model.num_experts
    tokens, steps = trial.train.tokens_per_step, trial.train.steps
    rng = np.random.default_rng(0)
    share_LE = np.exp(rng.normal(0, 0.3, (L, E)))
    share_LE /= share_LE.sum(axis=-1, keepdims=True)
    count_PLE = rng.multinomial(tokens * trial.model.top_k, share_LE, size=(PATTERNS, L))
    count_PLE = count_PLE.astype(np.int32)
    sign_PLE = np.sign(count_PLE.mean(axis=-1, keepdims=True) - count_PLE).astype(np.float32)
    bias_LE = np.zeros((L, E), np.float32)
    for step in range(1, steps + 1):
        count_LE = count_PLE[step % PATTERNS]
        if step % 1000 == 0:  # expert 0 also gets the load of expert 1
            count_LE = count_LE.copy()
            count_LE[:, 0] += count_LE[:, 1]
            count_LE[:, 1] = 0
        yield StepRecord(
            step=step,
            loss=2.0 + 4.0 * math.exp(-6 * step / steps) + 0.05 * float(rng.standard_normal()),
            balance_loss=0.0,
            grad_norm=1.0 + 0.2 * float(rng.random()),
            learning_rate=1e-3,
            tokens=step * tokens,
            seconds=0.25 + 0.01 * float(rng.random()),
            count_LE=count_LE,
            bias_LE=bias_LE.copy(),
            max_vio_micro=0.2,
        )
        bias_LE += np.float32(1e-3) * sign_PLE[step % PATTERNS]
