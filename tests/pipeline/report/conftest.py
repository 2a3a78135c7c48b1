"""A home with one sweep: two settings at two expert counts, one of them failed or stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.figures.cost import CostSettings
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.report.evidence import Evidence, gather
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Claim, Order, Progress, Stage, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

STEPS, TOKENS = 20, 128
MAX_VIO = {"none": 3.0, "sign 0.001": 1.0, "sign 0.01": 0.3}
ERROR = "Traceback (most recent call last):\nFloatingPointError: step 7: loss=nan"


class Home:
    """A home whose trials are filled one by one."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder)
        self.store = SweepStore(self.settings.store_url)

    def add_sweep(self, seeds: tuple[int, ...] = (0,)) -> str:
        spec = SweepSpec.model_validate(
            {
                "name": "demo",
                "base": {
                    "model": {"preset": "tiny", "top_k": 2},
                    "train": {"steps": STEPS, "batch_sequences": 2, "seq_len": 64},
                    "runtime": {"device": "cpu", "backend": "torch"},
                },
                "axes": {
                    "model.num_experts": [4, 8],
                    "train.seed": list(seeds),
                    "balancer": [
                        {"kind": "none"},
                        {"kind": "sign", "step_size": 0.001},
                        {"kind": "sign", "step_size": 0.01},
                    ],
                },
            }
        )
        self.trials = [(trial.digest("corpus", "core"), trial) for trial in spec.expand()]
        return self.store.add_sweep(spec, self.trials)

    def confirm(self, sweep_id: str, seeds: tuple[int, ...]) -> None:
        fresh = [
            trial.model_copy(update={"train": trial.train.model_copy(update={"seed": seed})})
            for _, trial in self.trials
            for seed in seeds
        ]
        pairs = [(trial.digest("corpus", "core"), trial) for trial in fresh]
        self.store.add_trials(sweep_id, pairs, Stage.CONFIRM)
        self.trials = pairs

    def finish_all(self) -> None:
        for digest, trial in self.trials:
            self.finish(digest, trial)

    def finish(self, digest: str, trial: TrialSpec) -> None:
        claim = self.claim(digest, WorkKind.TRAIN)
        self.record(digest, trial)
        self.store.finish(claim, TrialState.TRAINED, _figures(trial))
        loss = {"val_bits_per_byte": 2.9 + 0.01 * MAX_VIO[trial.balancer.label]}
        self.store.finish(self.claim(digest, WorkKind.EVAL), TrialState.COMPLETED, loss)

    def fail(self, digest: str, trial: TrialSpec) -> None:
        claim = self.claim(digest, WorkKind.TRAIN)
        self.record(digest, trial, steps=6)
        self.store.finish(claim, TrialState.FAILED, error=ERROR)

    def stop(self, digest: str, trial: TrialSpec) -> None:
        claim = self.claim(digest, WorkKind.TRAIN)
        self.record(digest, trial, steps=6)
        self.store.heartbeat(claim, Progress(6, STEPS, 6 * TOKENS, 1.0, 3.0, 1.0), 3600)
        self.store.order(digest, Order.STOP, "asha: rank 3 of 3 at rung 1")
        self.store.finish(claim, TrialState.STOPPED)

    def claim(self, digest: str, kind: WorkKind) -> Claim:
        claim = self.store.claim(digest, kind, "worker", 3600)
        assert claim is not None
        return claim

    def record(self, digest: str, trial: TrialSpec, steps: int = STEPS) -> None:
        sink = LoadLogSink(self.settings.trial_dir(digest))
        tags = {"commit": "abc123", "device": "a processor", "corpus": "c0ffee"}
        sink.start(RunIdentity(digest, "", None, 1, trial.model_dump(mode="json"), tags))
        sink.log_steps(_steps(trial, steps))
        sink.close()

    def evidence(self, sweep_id: str) -> Evidence:
        return gather(self.store, self.settings, CostSettings(), sweep_id)


def _figures(trial: TrialSpec) -> dict[str, float]:
    vio = MAX_VIO[trial.balancer.label]
    return {"max_vio": vio, "max_vio_floor": 0.2, "idle_frac": vio / 100, "effective_util": 0.5}


def _steps(trial: TrialSpec, steps: int) -> list[StepRecord]:
    """Steps in which expert 0 of every layer is overloaded by the MaxVio of the setting."""
    L, E = trial.model.num_moe_layers, trial.model.num_experts
    total = TOKENS * 2
    first = min(total, round(total / E * (1 + MAX_VIO[trial.balancer.label])))
    rest = np.full(E - 1, (total - first) // (E - 1))
    rest[: (total - first) % (E - 1)] += 1
    count_LE = np.tile(np.array([first, *rest], np.int32), (L, 1))
    return [
        StepRecord(
            step=step,
            loss=3.0,
            balance_loss=0.0,
            grad_norm=1.0,
            learning_rate=1e-3,
            tokens=step * TOKENS,
            seconds=0.5,
            count_LE=count_LE,
            bias_LE=np.zeros((L, E), np.float32),
            max_vio_micro=1.0,
        )
        for step in range(1, steps + 1)
    ]


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Iterator[Home]:
    shutil.copy(empty_store, tmp_path / "evenload.db")
    found = Home(tmp_path)
    yield found
    found.store.close()
