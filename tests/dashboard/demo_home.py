"""Fills a home with believable sweeps: one finished, one running, one cancelled, one submitted.

Loads come from a small simulation: experts attract tokens by a fixed skew, the sign rule's bias
works against it. `python tests/dashboard/demo_home.py HOME` makes one to look at.

Shape suffixes: L expert layers, E experts.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.load_metrics import max_vio, max_vio_floor, summarise
from pipeline.records import (
    Claim,
    EvalRecord,
    Progress,
    RunIdentity,
    StepRecord,
    TrialState,
    WorkKind,
)
from pipeline.settings import Settings
from pipeline.spec import TrialSpec
from pipeline.store.sweep_store import SweepStore
from pipeline.sweep_spec import SweepSpec
from pipeline.tracking.load_log import LoadLogSink, read_history

STEPS, LEASE_SECONDS = 300, 3600.0
FAILURE = """Traceback (most recent call last):
  File "workers/training/loop.py", line 68, in train
    trainer.train_one(batches)
  File "workers/training/telemetry.py", line 94, in _check_finite
    raise FloatingPointError(
FloatingPointError: step 141: loss=nan, grad_norm=nan; lower train.learning_rate or raise \
train.warmup_steps
"""


def build(home: Path) -> dict[str, str]:
    """Sweep ids by what they show: finished, running, cancelled, submitted."""
    settings = Settings(home=home)
    settings.root.mkdir(parents=True, exist_ok=True)
    store = SweepStore(settings.store_url)
    store.migrate()
    ids = {
        "submitted": store.submit(_sweep("gpu-night", [{"kind": "none"}], experts=[64])),
        "cancelled": _cancelled(store),
        "finished": _finished(store, settings),
        "running": _running(store, settings),
    }
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
    store.finish(claim, TrialState.TRAINED, result, run_id=claim.digest * 2)
    claim = _claim(store, claim.digest, WorkKind.EVAL, "worker-a:eval")
    store.finish(claim, TrialState.COMPLETED, _evaluate(settings, claim.digest, trial, result))


def _train(settings: Settings, digest: str, trial: TrialSpec, steps: int) -> dict[str, float]:
    folder = settings.trial_dir(digest)
    sink = LoadLogSink(folder)
    sink.start(RunIdentity(digest, trial.balancer.label, None, 1, trial.model_dump(mode="json")))
    records = list(_steps(trial, steps))
    for start in range(0, steps, 10):
        sink.log_steps(records[start : start + 10])
    sink.close(TrialState.TRAINED, {})
    (folder / "logs").mkdir()
    lines = [f"step {step:>4}/{STEPS}  loss {_loss(step):.3f}" for step in range(10, steps + 1, 10)]
    (folder / "logs" / "attempt-1.log").write_text("\n".join(lines) + "\n")
    history = read_history(folder)
    tokens = trial.train.tokens_per_step
    seconds = float(history.scalars["seconds"].sum())
    figures = summarise(history.count_SLE, tokens_per_step=tokens, top_k=trial.model.top_k)
    return figures | {
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
    skew_LE[0, 0] = -6.0  # an expert that starves unless something helps it
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
    sink.log_eval(EvalRecord(STEPS, loss, bits, math.exp(loss), tokens, tokens, count_LE))
    return {
        "val_loss": loss,
        "val_bits_per_byte": bits,
        "val_perplexity": math.exp(loss),
        "max_vio_global": float(max_vio(count_LE).mean()),
        "max_vio_global_floor": max_vio_floor(tokens, trial.model.num_experts, trial.model.top_k),
        "eval_tokens": float(tokens),
    }


def _progress(trial: TrialSpec, step: int) -> Progress:
    return Progress(step, STEPS, step * trial.train.tokens_per_step, 24_800.0, _loss(step), 0.31)


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
