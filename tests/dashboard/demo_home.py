"""Fills a home with plausible sweeps: searched, finished, running, cancelled, submitted.

The searched one has learning curves, stopped trials and a confirm stage, but no shards. The loads
of the others come from a small simulation: experts attract tokens by a fixed skew, and the bias of
the sign rule works against it. `python tests/dashboard/demo_home.py HOME` makes one by hand.

Shape suffixes: L expert layers, E experts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from evenload.pipeline.figures.evaluation import Detail, GroupScores, Integers, LossByK, Routes
from evenload.pipeline.figures.loads import Loads, max_vio
from evenload.pipeline.figures.metrics import figures
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.scalars import evaluation_figures
from evenload.pipeline.records.series_sink import PooledLoadSink
from evenload.pipeline.records.shards import LoadLogSink, read_history
from evenload.pipeline.records.system_sink import SystemSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrainSpec, TrialSpec
from evenload.pipeline.states import Claim, CurvePoint, Order, Progress, Stage, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

STEPS, LEASE_SECONDS = 300, 3600.0
DETAILED_EXPERTS = 32  # trials with this many have a detailed evaluation
CURVE_STEPS = 20
FAILURE = """Traceback (most recent call last):
  File "workers/training/loop.py", line 68, in train
    trainer.train_one(batches)
  File "workers/training/telemetry.py", line 94, in _check_finite
    raise FloatingPointError(
FloatingPointError: step 141: loss=nan, grad_norm=nan; lower train.learning_rate or raise \
train.warmup_steps
"""


def build(home: Path) -> dict[str, str]:
    """Fills the home and returns the ids of the sweeps by the names above."""
    settings = Settings(home=home)
    settings.root.mkdir(parents=True, exist_ok=True)
    store = SweepStore(settings.store_url)
    store.migrate()
    ids = {
        "submitted": store.submit(_sweep("gpu-night", [{"kind": "none"}], experts=[64])),
        "cancelled": _cancelled(store),
        "searched": _searched(store),
        "finished": _finished(store, settings),
        "running": _running(store, settings),
    }
    be_present(store, ids["running"])
    store.close()
    return ids


def _sweep(name: str, balancers: list[dict[str, Any]], experts: list[int]) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": name,
            "base": {
                "model": {"preset": "tiny", "num_layers": 5},
                "train": {"steps": STEPS, "batch_sequences": 8, "seq_len": 64},
                "runtime": {"backend": "torch", "device": "cpu"},
            },
            "axes": {"model.num_experts": experts, "balancer": balancers},
        }
    )


def _signs(*step_sizes: float) -> list[dict[str, Any]]:
    return [{"kind": "sign", "step_size": size} for size in step_sizes]


def _finished(store: SweepStore, settings: Settings) -> str:
    spec = _sweep(
        "step-size-by-experts",
        [{"kind": "none"}, {"kind": "aux_loss"}, *_signs(1e-3, 1e-2, 1e-1)],
        experts=[8, 16, 32],
    )
    sweep_id, trials = _add(store, spec)
    for digest, trial in trials:
        claim = _claim(store, digest, WorkKind.TRAIN, "worker-a:gpu0")
        fails = trial.balancer.label == "sign 0.1" and trial.model.num_experts == 32
        steps = 140 if fails else STEPS
        result = _train(settings, digest, trial, steps)
        if fails:
            store.heartbeat(claim, _progress(trial, steps), LEASE_SECONDS)
            store.finish(claim, TrialState.FAILED, error=FAILURE)
        else:
            _complete(store, settings, claim, trial, result)
    store.finish_sweep(sweep_id)
    return sweep_id


def _running(store: SweepStore, settings: Settings) -> str:
    spec = _sweep("schedules", _signs(2e-3, 5e-3, 2e-2, 5e-2), experts=[16, 32])
    sweep_id, trials = _add(store, spec)
    for position, (digest, trial) in enumerate(trials[:5]):
        claim = _claim(store, digest, WorkKind.TRAIN, f"worker-b:gpu{position % 2}")
        steps = STEPS if position < 2 else 60 + 40 * position
        result = _train(settings, digest, trial, steps)
        if position < 2:
            _complete(store, settings, claim, trial, result)
        elif position == 2:
            store.finish(claim, TrialState.FAILED, error=FAILURE)
        else:
            store.heartbeat(claim, _progress(trial, steps), LEASE_SECONDS)
    return sweep_id


def _searched(store: SweepStore) -> str:
    rules = [{"kind": "none"}, {"kind": "aux_loss"}, *_signs(1e-3, 3e-3, 1e-2, 3e-2)]
    rules += [{"kind": "proportional", "step_size": size} for size in (1e-3, 1e-2)]
    plain = _sweep("search", [*rules, {"kind": "self_tuned"}], experts=[16, 32])
    base = plain.base | {"eval": {"every_steps": CURVE_STEPS}}
    base["train"] = plain.base["train"] | {"seed": 1}  # no trial of another sweep
    confirm = {"top": 2, "seeds": [10, 11, 12]}
    spec = plain.model_validate(plain.model_dump() | {"base": base, "confirm": confirm})
    sweep_id, trials = _add(store, spec)
    for digest, trial in trials:
        slow = trial.balancer.step == 1e-3 and trial.model.num_experts == 32
        _search_one(store, digest, trial, "ASHA: 8th of 9 at step 100" if slow else None)
    fresh = [
        (again.digest("c0ffee", "core"), again)
        for _, trial in trials
        if trial.balancer.label in ("none", "sign 0.01", "self_tuned")
        for seed in (10, 11, 12)
        for again in [trial.model_copy(update={"train": _reseeded(trial, seed)})]
    ]
    store.add_trials(sweep_id, fresh, Stage.CONFIRM)
    for digest, trial in fresh:
        _search_one(store, digest, trial, None)
    store.finish_sweep(sweep_id)
    return sweep_id


def be_present(store: SweepStore, sweep_id: str) -> None:
    """Announces a coordinator with two nodes and the workers of the running trials."""
    resources = {"CPU": 16.0, "GPU": 1.0, "memory": 64 * 2.0**30}
    nodes = [
        {"node_id": name * 10, "host": name, "is_alive": name != "node-c", "resources": resources}
        for name in ("node-a", "node-b", "node-c")
    ]
    slots = {"train": 4, "eval": 1}
    facts = {"nodes": nodes, "slots": slots, "free": {"train": 2, "eval": 1}, "sweeps": 2}
    store.announce("node-a:coordinator", "coordinator", facts)
    for trial in store.trials(sweep_id):
        if trial.state.is_held and trial.worker is not None:
            doing = {"digest": trial.digest, "label": trial.label, "attempt": trial.attempt}
            doing |= {"sweep_id": sweep_id, "rss_bytes": 3 * 2**30}
            store.announce(trial.worker, "train", doing)


def _reseeded(trial: TrialSpec, seed: int) -> TrainSpec:
    return trial.train.model_copy(update={"seed": seed})


def _search_one(store: SweepStore, digest: str, trial: TrialSpec, stopped: str | None) -> None:
    """Runs a trial with its curve and figures; `stopped`: the reason if it ends after a third."""
    claim = _claim(store, digest, WorkKind.TRAIN, "worker-a:gpu0")
    steps = 100 if stopped else STEPS
    figures = _searched_figures(trial)
    points = [
        CurvePoint(
            step=step,
            tokens=step * trial.train.tokens_per_step,
            seconds=0.02 * step,
            val_loss=_loss(step) + figures["val_bits_per_byte"] - 2.3,
            max_vio=figures["max_vio"] + 2 * math.exp(-step / 40),
        )
        for step in range(CURVE_STEPS, steps + 1, CURVE_STEPS)
    ]
    store.record_curve(claim, points)
    store.heartbeat(claim, _progress(trial, steps), LEASE_SECONDS)
    if stopped is not None:
        store.order(digest, Order.STOP, stopped)
        store.finish(claim, TrialState.STOPPED)
        return
    store.finish(claim, TrialState.TRAINED, {"train_seconds": 6.0, "tokens_per_second": 24_800.0})
    claim = _claim(store, digest, WorkKind.EVAL, "worker-a:eval")
    store.finish(claim, TrialState.COMPLETED, figures)


def _searched_figures(trial: TrialSpec) -> dict[str, float]:
    """MaxVio has a minimum over the step size; the loss follows it a little."""
    rng = np.random.default_rng([trial.train.seed, trial.model.num_experts])
    size = trial.balancer.step
    base = {"none": 4.2, "aux_loss": 0.45, "self_tuned": 0.22}.get(trial.balancer.kind, 0.2)
    away = abs(math.log10(size / 8e-3)) if size else 0.0
    vio = (base + 0.9 * away**2) * trial.model.num_experts / 16 * math.exp(0.06 * rng.normal())
    bits = 2.3 + 0.02 * vio - 0.03 * math.log2(trial.model.num_experts / 16)
    bits += 0.03 if trial.balancer.kind == "aux_loss" else 0.0
    return {
        "val_bits_per_byte": bits + 0.006 * rng.normal(),
        "max_vio": vio,
        "max_vio_floor": 0.11 * trial.model.num_experts / 16,
        "max_vio_global": 0.8 * vio,
        "max_vio_global_floor": 0.02,
        "idle_frac": 0.02 * max(0.0, vio - 0.6),
        "dead_tenth": 0.05 * max(0.0, vio - 1.0),
        "effective_util": 1 / (1 + vio),
    }


def _cancelled(store: SweepStore) -> str:
    sweep_id, _ = _add(store, _sweep("first-try", _signs(1e-4, 1.0), experts=[4]))
    store.cancel(sweep_id)
    return sweep_id


def _add(store: SweepStore, spec: SweepSpec) -> tuple[str, list[tuple[str, TrialSpec]]]:
    trials = [(trial.digest("c0ffee", "core"), trial) for trial in spec.expand()]
    return store.add_sweep(spec, trials), trials


def _claim(store: SweepStore, digest: str, kind: WorkKind, worker: str) -> Claim:
    claim = store.claim(digest, kind, worker, LEASE_SECONDS)
    assert claim is not None
    return claim


def _complete(
    store: SweepStore, settings: Settings, claim: Claim, trial: TrialSpec, result: dict[str, float]
) -> None:
    store.heartbeat(claim, _progress(trial, STEPS), LEASE_SECONDS)
    store.finish(claim, TrialState.TRAINED, result)
    store.set_run_id(claim.digest, claim.digest * 2)
    claim = _claim(store, claim.digest, WorkKind.EVAL, "worker-a:eval")
    store.finish(claim, TrialState.COMPLETED, _evaluate(settings, claim.digest, trial, result))


def _train(settings: Settings, digest: str, trial: TrialSpec, steps: int) -> dict[str, float]:
    folder = settings.trial_dir(digest)
    run = RunIdentity(digest, trial.balancer.label, None, 1, trial.model_dump(mode="json"))
    records = list(_steps(trial, steps))
    sinks = LoadLogSink(folder), PooledLoadSink(folder), SystemSink(folder, sample_seconds=0)
    for sink in sinks:
        sink.start(run)
        for start in range(0, steps, 10):
            sink.log_steps(records[start : start + 10])
        sink.close()
    (folder / "logs").mkdir()
    lines = [f"step {step:>4}/{STEPS}  loss {_loss(step):.3f}" for step in range(10, steps + 1, 10)]
    (folder / "logs" / "attempt-1.log").write_text("\n".join(lines) + "\n")
    history = read_history(folder)
    tokens = trial.train.tokens_per_step
    seconds = float(history.scalars["seconds"].sum())
    return figures("run", Loads.of(trial, history.count_SLE)) | {
        "train_loss": _loss(steps),
        "tokens": float(steps * tokens),
        "steps": float(steps),
        "tokens_per_second": steps * tokens / seconds,
        "train_seconds": seconds,
        "tracking_errors": 0.0,
    }


def _steps(trial: TrialSpec, steps: int) -> Iterator[StepRecord]:
    L, E = trial.model.num_moe_layers, trial.model.num_experts
    tokens, top_k = trial.train.tokens_per_step, trial.model.top_k
    rng = np.random.default_rng(E)
    skew_LE = rng.normal(0, 0.5, (L, E)) * np.linspace(1.6, 0.8, L)[:, None]
    skew_LE[0, 0] = -6.0  # an expert that gets no tokens unless a rule helps it
    bias_LE = np.zeros((L, E))
    size = trial.balancer.step or 0.0
    for step in range(1, steps + 1):
        drift_LE = 0.15 * np.sin(step / 40 + np.arange(E)) + 0.02 * rng.normal(size=(L, E))
        pull = 0.45 if trial.balancer.kind == "aux_loss" else 1.0
        score_LE = pull * (skew_LE + drift_LE) + bias_LE
        share_LE = np.exp(score_LE) / np.exp(score_LE).sum(axis=-1, keepdims=True)
        count_LE = np.stack([rng.multinomial(tokens * top_k, share_E) for share_E in share_LE])
        yield StepRecord(
            step=step,
            loss=_loss(step) + 0.03 * rng.normal() + (0.4 if step == 160 else 0.0),
            balance_loss=0.01 if trial.balancer.kind == "aux_loss" else 0.0,
            grad_norm=1.0 + 0.2 * rng.random(),
            learning_rate=3e-3,
            tokens=step * tokens,
            seconds=0.02 + 0.002 * rng.random(),
            count_LE=count_LE.astype(np.int32),
            bias_LE=bias_LE.astype(np.float32),
            max_vio_micro=float(max_vio(count_LE).mean()),
        )
        if trial.balancer.kind == "sign":
            bias_LE += size * np.sign(tokens * top_k / E - count_LE)
            bias_LE -= bias_LE.mean(axis=-1, keepdims=True)


def _loss(step: int) -> float:
    return 1.6 + 3.9 * math.exp(-step / 60)


def _evaluate(
    settings: Settings, digest: str, trial: TrialSpec, result: dict[str, float]
) -> dict[str, float]:
    history = read_history(settings.trial_dir(digest), first=STEPS - 32)
    count_LE = history.count_SLE.sum(axis=0, dtype=np.int64)
    tokens = int(count_LE[0].sum()) // trial.model.top_k
    bits = 2.31 - 0.05 * math.log2(trial.model.num_experts / 8) + 0.02 * result["max_vio"]
    loss = bits * math.log(2)
    sink = LoadLogSink(settings.trial_dir(digest))
    detail = _detail(trial, count_LE) if trial.model.num_experts == DETAILED_EXPERTS else Detail()
    record = EvalRecord(
        step=STEPS,
        loss=loss,
        bits_per_byte=bits,
        perplexity=math.exp(loss),
        tokens=tokens,
        count_LE=count_LE,
        detail=detail,
    )
    sink.log_eval(record)
    return evaluation_figures(record, trial)


def _detail(trial: TrialSpec, count_LE: Integers) -> Detail:
    """Three domains with different experts; co-activations and transitions nearly independent."""
    L, E = count_LE.shape
    rng = np.random.default_rng(1)
    share_GLE = count_LE * np.exp(rng.normal(0, 0.6, (3, L, E)))
    share_GLE /= share_GLE.sum(axis=-1, keepdims=True)
    group_GLE = rng.multinomial(16_384 * trial.model.top_k, share_GLE)
    noise_LEE = np.exp(rng.normal(0, 0.4, (L, E, E)))
    outer_LEE = count_LE[:, :, None] * count_LE[:, None, :] / count_LE.sum(axis=-1)[:, None, None]
    together_LEE = (outer_LEE * (noise_LEE + noise_LEE.swapaxes(1, 2)) / 2).astype(np.int64)
    together_LEE[:, np.arange(E), np.arange(E)] = count_LE
    k_N = np.array([1, 2, 3, 4, 8, 16, E])
    by_k = LossByK(
        k_N,
        1.6 + 0.3 / k_N + 0.004 * k_N,
        np.stack([count_LE * k // trial.model.top_k for k in k_N]),
        8192,
    )
    scores = GroupScores(
        ("prose", "code", "tables"),
        np.array([1.72, 1.31, 1.05]),
        np.array([2.48, 1.89, 1.51]),
        np.full(3, 16_384),
        group_GLE,
    )
    return Detail(scores, by_k, Routes(together_LEE, (outer_LEE * noise_LEE).astype(np.int64)[:-1]))


def _progress(trial: TrialSpec, step: int) -> Progress:
    return Progress(step, STEPS, step * trial.train.tokens_per_step, 24_800.0, _loss(step), 0.31)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
