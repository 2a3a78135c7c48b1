from __future__ import annotations

import math
from typing import Any

import pytest

from evenload.pipeline.client import Client
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore


def add_sweep(store: SweepStore, name: str, shift: float, **train: Any) -> str:
    spec = SweepSpec.model_validate(
        {
            "name": name,
            "base": {
                "model": {"preset": "tiny", "num_experts": 4, "num_layers": 2},
                "train": {"steps": 4, "batch_sequences": 1, "seq_len": 8} | train,
                "runtime": {"device": "cpu", "backend": "torch"},
            },
            "axes": {
                "balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}],
                "train.seed": [0, 1, 2],
            },
        }
    )
    trials = [(trial.digest("corpus", "core"), trial) for trial in spec.expand()]
    sweep_id = store.add_sweep(spec, trials)
    for at, (digest, trial) in enumerate(trials):
        loss = 3.0 + shift + 0.1 * trial.train.seed + 0.001 * math.sin(at + 100 * shift)
        figures = {"max_vio": 0.5, "max_vio_floor": 0.1, "val_bits_per_byte": loss}
        for kind, state in (
            (WorkKind.TRAIN, TrialState.TRAINED),
            (WorkKind.EVAL, TrialState.COMPLETED),
        ):
            claim = store.claim(digest, kind, "w", 3600)
            assert claim is not None
            store.finish(claim, state, figures)
    store.finish_sweep(sweep_id)
    return sweep_id


@pytest.fixture
def sweeps(here: Any) -> tuple[str, str, str]:
    """Two rates, and a sweep with more steps."""
    settings = Settings(home=here.folder / ".evenload")
    settings.root.mkdir()
    store = SweepStore(settings.store_url)
    store.migrate()
    found = (
        add_sweep(store, "low", 0.05),
        add_sweep(store, "high", 0.0, learning_rate=0.006),
        add_sweep(store, "long", 0.0, steps=8),
    )
    store.close()
    return found


def test_two_sweeps_are_set_side_by_side(here: Any, sweeps: tuple[str, str, str]) -> None:
    low, high, _ = sweeps
    shown = " ".join(here("sweep", "compare", low, high).out.split())
    assert "less loss in B" in shown
    assert "paired by the 3 seeds that both sweeps have" in shown
    assert "train.learning_rate is 0.003 in A, 0.006 in B" in shown
    assert "A: At 4 experts" in shown
    document = here("sweep", "compare", low, high, "--json").document
    assert set(document["answers"]) == {low, high}
    found = Client(home=here.folder / ".evenload").compare(low, high)
    assert document["common"][0]["loss"]["mean"] == found.common[0].loss.mean


def test_sweeps_of_other_lengths_are_refused(here: Any, sweeps: tuple[str, str, str]) -> None:
    low, _, long = sweeps
    refused = here("sweep", "compare", low, long)
    assert refused.code == 2
    assert "train.steps is 4 in" in refused.err
    assert "sweep extend --steps" in refused.err
    assert here("sweep", "compare", low, "nope").code == 2
