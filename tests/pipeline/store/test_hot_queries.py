"""What runs in every poll, claim and heartbeat finds its rows by indices."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore

LARGE = ("trial", "attempt", "sweep_trial", "curve")
BASE = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
    "runtime": {"backend": "torch", "device": "cpu"},
}


def lease(store: SweepStore) -> None:
    claim = store.claim("b", WorkKind.TRAIN, "w", 60.0)
    assert claim is not None
    store.heartbeat(claim, None, 60.0)
    store.finish(claim, TrialState.TRAINED, {})
    store.lose("w", "gone")


HOT: dict[str, Callable[[SweepStore], object]] = {
    "poll": lambda store: store.snapshot(None, max_unstarted=4),
    "stack": lambda store: store.stackable_trials("a", 32),
    "lease": lease,
    "group": lambda store: store.is_claimable("a", WorkKind.TRAIN),
}


@pytest.mark.parametrize("name", HOT)
def test_no_hot_query_reads_a_whole_table(name: str, tmp_path: Path) -> None:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    spec = SweepSpec(name="s", base=BASE, axes={"train.seed": [0, 1, 2]})
    store.add_sweep(spec, list(zip("abc", spec.expand(), strict=True)))
    ran: list[tuple[str, object]] = []

    def note(_: object, __: object, statement: str, parameters: object, *___: object) -> None:
        ran.append((statement, parameters))

    event.listen(store._engine, "before_cursor_execute", note)
    HOT[name](store)
    event.remove(store._engine, "before_cursor_execute", note)
    with store._engine.connect() as connection:
        scanned = [
            (row[-1], statement)
            for statement, parameters in ran
            if re.match("SELECT|UPDATE|DELETE", statement) and "sqlite_master" not in statement
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            if row[-1].startswith("SCAN") and row[-1].split()[1] in LARGE
        ]
    store.close()
    assert ran
    assert scanned == []


def test_a_poll_reads_no_trial_of_a_sweep_that_is_over(tmp_path: Path) -> None:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    spec = SweepSpec(name="s", base=BASE, axes={"train.seed": list(range(20))})
    over = store.add_sweep(spec, [(f"t{n}", trial) for n, trial in enumerate(spec.expand())])
    store.cancel(over)
    assert store.snapshot().sweeps == store.snapshot().trials == ()
    assert store.snapshot([over]).sweeps[0].sweep_id == over
    store.close()
