from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink, newest_checkpoint
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress
from evenload.workers.training.identity import resolve
from evenload.workers.training.loop import TrainOutcome, train

Report = Callable[[Progress], Command]
DIGEST = "0123456789abcdef"


def always(_: Progress) -> Command:
    return Command.CONTINUE


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def make_spec() -> Callable[..., TrialSpec]:
    """Makes a resolved trial that trains in under a second; keyword arguments override parts."""

    def make(**changes: dict[str, Any]) -> TrialSpec:
        parts: dict[str, dict[str, Any]] = {
            "model": {
                "preset": "tiny",
                "vocab_size": 32,
                "num_layers": 3,
                "d_model": 32,
                "num_heads": 2,
                "d_dense": 64,
                "num_experts": 8,
                "top_k": 2,
                "d_expert": 16,
            },
            "data": {"kind": "synthetic", "num_tokens": 60_000, "vocab_size": 32, "num_domains": 2},
            "train": {"steps": 20, "batch_sequences": 4, "seq_len": 32},
            "balancer": {"kind": "sign", "step_size": 0.01},
            "eval": {"tokens": 1024, "batch_sequences": 4},
            "runtime": {"device": "cpu", "backend": "torch", "log_every": 4, "checkpoint_every": 7},
        }
        merged = {key: part | changes.get(key, {}) for key, part in parts.items()}
        return resolve(
            TrialSpec.model_validate(
                merged | {"balancer": changes.get("balancer", parts["balancer"])}
            )
        )

    return make


@pytest.fixture
def run_trial(settings: Settings) -> Callable[..., TrainOutcome]:
    """Trains one attempt from the newest checkpoint and records it in shards."""

    def run(spec: TrialSpec, report: Report = always, digest: str = DIGEST) -> TrainOutcome:
        sink = LoadLogSink(settings.trial_dir(digest))
        identity = RunIdentity(
            digest=digest,
            name=spec.balancer.label,
            sweep_id=None,
            attempt=1,
            spec=spec.model_dump(mode="json"),
            resumed_from_step=newest_checkpoint(settings.trial_dir(digest)),
        )
        outcome = train(
            spec, settings=settings, digest=digest, sink=sink, report=report, run=identity
        )
        sink.close()
        return outcome

    return run
