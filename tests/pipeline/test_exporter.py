from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from evenload.pipeline.exporter import Exporter, serve
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Progress, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

E, STEPS = 4, 3
SWEEP = {
    "name": "s",
    "base": {
        "model": {"preset": "tiny", "num_experts": E, "top_k": 1, "num_layers": 3},
        "train": {"steps": 10, "batch_sequences": 2, "seq_len": 8},
    },
    "axes": {"balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}]},
}
LABELS = ("state", "trial", "rule", "experts", "layer", "expert")
Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[SweepStore]:
    store = SweepStore(settings.store_url)
    store.migrate()
    yield store
    store.close()


@pytest.fixture
def scrape(settings: Settings) -> Callable[[], Samples]:
    def samples() -> Samples:
        port = serve(settings, port=0)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sample.labels[name] for name in LABELS if name in sample.labels)): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return samples


def step(number: int) -> StepRecord:
    """A step in which layer 0 is even and one expert of layer 1 gets all tokens."""
    count_LE = np.array([[4, 4, 4, 4], [16, 0, 0, 0]], np.int32)
    bias_LE = np.zeros((2, E), np.float32)
    return StepRecord(number, 2.0, 0.0, 1.0, 1e-3, 16, 0.1, count_LE, bias_LE, 0.0)


def test_a_scrape_shows_queue_progress_and_loads(
    settings: Settings, store: SweepStore, scrape: Callable[[], Samples]
) -> None:
    spec = SweepSpec.model_validate(SWEEP)
    trials: list[tuple[str, TrialSpec]] = list(zip(("t0", "t1"), spec.expand(), strict=True))
    store.add_sweep(spec, trials)
    claim = store.claim("t1", WorkKind.TRAIN, "w", 30)
    assert claim is not None
    progress = Progress(
        step=STEPS, steps=10, tokens=48, tokens_per_second=160.0, loss=2.0, max_vio=1.5
    )
    store.heartbeat(claim, progress, 30)
    sink = LoadLogSink(settings.trial_dir("t1"))
    sink.start(RunIdentity("t1", "n", None, 1, trials[1][1].model_dump(mode="json")))
    sink.log_steps([step(number) for number in range(1, STEPS + 1)])

    found = scrape()
    trial = ("t1", "sign 0.01", "4")
    assert found["evenload_up", ()] == 1
    assert found["evenload_sweeps", ("active",)] == 1
    assert found["evenload_trials", ("queued",)] == 1
    assert found["evenload_trials", ("training",)] == 1
    assert found["evenload_trials", ("failed",)] == 0
    assert found["evenload_queue", ()] == 1
    assert found["evenload_trial_tokens_per_second", trial] == 160
    assert found["evenload_trial_max_vio", trial] == 1.5
    assert found["evenload_trial_idle_frac", trial] == 3 / 8
    assert found["evenload_trial_max_vio_worst", trial] == 3.0
    assert found["evenload_trial_count_check", trial] == 1.0
    for layer, which, ratio in (
        ("0", "fullest", 1.0),
        ("0", "emptiest", 1.0),
        ("1", "fullest", 4.0),
        ("1", "median", 0.0),
    ):
        assert found["evenload_layer_load_ratio", (*trial, layer, which)] == ratio


def test_without_a_store_a_scrape_shows_only_that_it_is_down(scrape: Callable[[], Samples]) -> None:
    found = {key: value for key, value in scrape().items() if key[0].startswith("evenload")}
    assert found == {("evenload_up", ()): 0}


def test_a_trial_without_shards_has_no_loads(settings: Settings, store: SweepStore) -> None:
    spec = SweepSpec.model_validate(SWEEP)
    trials = list(zip(("t0", "t1"), spec.expand(), strict=True))
    store.add_sweep(spec, trials)
    store.claim("t0", WorkKind.TRAIN, "w", 30)
    families = {family.name: family.samples for family in Exporter(store, settings).collect()}
    assert families["evenload_trial_idle_frac"] == []
    assert families["evenload_trial_loss_nats"] == []
