"""Worlds of a few seeds, and the seeds at which old faults are found.

`python -m tests.simulation --seeds 1000` runs more, and `--first N --seeds 1` repeats one.
"""

from __future__ import annotations

import psycopg
import pytest

from evenload.pipeline.store.sweep_store import SweepStore
from tests.simulation.chaos import simulate
from tests.simulation.old_faults import FAILS_AT, Plant
from tests.simulation.world import Violation

QUICK, NIGHT = range(4), range(1000)


@pytest.mark.parametrize("seed", QUICK)
def test_no_fault_breaks_what_must_hold(seed: int) -> None:
    assert len(simulate(seed)) > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_fault_breaks_what_must_hold_in_a_thousand_worlds() -> None:
    for seed in NIGHT:
        simulate(seed)


def test_a_seed_repeats_its_world_exactly() -> None:
    assert simulate(3) == simulate(3)


@pytest.mark.slow
@pytest.mark.parametrize("plant", FAILS_AT, ids=lambda plant: plant.__name__)
def test_an_old_fault_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((Violation, FileNotFoundError)):
        simulate(FAILS_AT[plant])


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("seed", range(4))
def test_no_fault_breaks_what_must_hold_on_postgresql(postgres_url: str, seed: int) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    store = SweepStore(postgres_url)
    store.migrate()
    try:
        simulate(seed, store)
    finally:
        store.close()
