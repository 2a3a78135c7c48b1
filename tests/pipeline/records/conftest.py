"""The identity and the records of a small trial, to test sinks with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from evenload.pipeline.figures.evaluation import Detail, GroupScores, Integers, LossByK, Routes
from evenload.pipeline.records.mlflow_runs import prepare
from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from tests.pipeline.records.mlflow_runs import Projected

LAYERS, EXPERTS, TOP_K, TOKENS = 2, 16, 2, 4 * 32


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def spec() -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny"},
            "balancer": {"kind": "sign", "step_size": 0.01},
            "train": {"steps": 100, "batch_sequences": 4, "seq_len": 32},
            "runtime": {"log_every": 10, "backend": "torch", "device": "cpu"},
        }
    )


@pytest.fixture
def identity(spec: TrialSpec) -> Callable[..., RunIdentity]:
    def make(digest: str = "0123456789abcdef", **fields: object) -> RunIdentity:
        given = {"name": "sign 0.01", "sweep_id": "demo-1a2b3c", "attempt": 1} | fields
        return RunIdentity(digest=digest, spec=spec.model_dump(mode="json"), **given)

    return make


@pytest.fixture
def record() -> Callable[[int], StepRecord]:
    """Makes the record of a step, equal at every call, as if a resumed run repeated the step."""

    def make(step: int, **fields: object) -> StepRecord:
        rng = np.random.default_rng(step)
        count = rng.multinomial(TOKENS * TOP_K, np.full(EXPERTS, 1 / EXPERTS), size=LAYERS)
        values = {
            "step": step,
            "loss": 5.0 - step / 100,
            "balance_loss": 0.25,
            "grad_norm": 1.5,
            "learning_rate": 3e-3,
            "tokens": step * TOKENS,
            "seconds": 0.5,
            "count_LE": count.astype(np.int32),
            "bias_LE": np.full((LAYERS, EXPERTS), step / 1000, np.float32),
            "max_vio_micro": 0.75,
        }
        return StepRecord(**(values | fields))

    return make


@pytest.fixture
def evaluation() -> EvalRecord:
    count_LE = np.full((LAYERS, EXPERTS), 512, dtype=np.int64)
    count_LE[0, :2] = 768, 256
    return EvalRecord(
        step=100,
        loss=2.0,
        bits_per_byte=2.9,
        perplexity=7.4,
        tokens=4096,
        count_LE=count_LE,
    )


@pytest.fixture
def detail() -> Detail:
    """The arrays of an evaluation with three expert layers and four experts."""
    rng = np.random.default_rng(0)

    def counts(*shape: int) -> Integers:
        return rng.integers(0, 2**40, size=shape)

    return Detail(
        groups=GroupScores(
            ("test", "größe/ä"),
            np.array([2.5, np.nan]),
            np.array([1.25, 3.0]),
            np.array([4096, 1024]),
            counts(2, 3, 4),
        ),
        by_k=LossByK(np.array([1, 2, 4]), np.array([3.0, 2.0, 2.5]), counts(3, 3, 4), 4096),
        routes=Routes(counts(3, 4, 4), counts(2, 4, 4)),
    )


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a migrated database. Tests copy it, because migrations take a second."""
    settings = Settings(home=tmp_path_factory.mktemp("prepared"))
    prepare(settings)
    return settings.root


@pytest.fixture
def client(settings: Settings, prepared_home: Path) -> MlflowClient:
    shutil.copytree(prepared_home, settings.root)
    return MlflowClient(tracking_uri=settings.mlflow_uri)


@pytest.fixture
def projected(
    settings: Settings, client: MlflowClient, identity: Callable[..., RunIdentity]
) -> Projected:
    return Projected(settings, identity())
