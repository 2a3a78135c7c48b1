from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evenload.pipeline.states import TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from infra.benchmarks import coordinator


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SweepStore]:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    yield store
    store.close()


@pytest.mark.parametrize(
    ("trials", "workers"), [(100, 10), pytest.param(10_000, 1000, marks=pytest.mark.slow)]
)
def test_a_sweep_outlives_its_coordinators_and_one_worker_in_a_hundred(
    trials: int, workers: int, store: SweepStore
) -> None:
    """Every coordinator lives for one minute of the simulated clock."""
    sweep_id = coordinator.submit(store, trials)
    found = coordinator.simulate(store, sweep_id, workers)
    assert {trial.state for trial in store.trials(sweep_id)} == {TrialState.COMPLETED}
    assert found["trained_twice"] == 0
    assert found["restarts"] > 10
    assert found["deaths"] > 0
    assert found["memory_bytes"] < 200 * 2**20
    lost = sum(trial.failures for trial in store.trials(sweep_id))
    assert lost == found["deaths"], "each death must cost one retry"


def test_the_table_names_every_part(store: SweepStore) -> None:
    sweep_id = coordinator.submit(store, 3)
    document = {
        "trials": 3,
        "workers": 2,
        "parts": coordinator.parts(store, sweep_id),
        "sweep": coordinator.simulate(store, sweep_id, 2),
    }
    for part in ("snapshot", "plan", "claim", "3 completed"):
        assert part in coordinator.table(document)
