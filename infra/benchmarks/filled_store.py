"""Fills a store with many sweeps of 1,000 trials: finished ones, and open ones.

    python -m infra.benchmarks.filled_store sqlite:////tmp/e.db --finished 100000 --open 10000
    python -m infra.benchmarks.filled_store postgresql+psycopg://... --finished 100000 --open 10000

The product's own functions submit, claim and finish the trials of one finished and one open sweep.
All others are copies of their rows under other ids, because the functions take 10 ms per trial. One
of a hundred open trials is training.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from sqlalchemy import Connection, func, insert, literal, select

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Claim, Progress, TrialState, WorkKind
from evenload.pipeline.store import leases
from evenload.pipeline.store.models import Attempt, Sweep, SweepTrial, Trial
from evenload.pipeline.store.sweep_store import SweepStore

LEASE_SECONDS = 36_000.0
PER_SWEEP, AT_ONCE = 1000, 250  # trials in a sweep, and in a transaction
STEPS = 400
KEYS = 6  # leading digits of a digest that tell sweeps apart
TABLES = (Sweep, Trial, SweepTrial, Attempt)


def fill(url: str, finished: int, opened: int) -> list[str]:
    """Adds whole sweeps, at least this many trials; returns their ids, the finished ones first."""
    store = SweepStore(url)
    store.migrate()
    ids = []
    for trials, finishes in ((finished, True), (opened, False)):
        sweeps = -(-trials // PER_SWEEP)
        if sweeps:
            first = _add(store, len(ids), min(trials, PER_SWEEP), finishes)
            ids.append(first)
            ids += [_copied(store, first, len(ids) + more) for more in range(sweeps - 1)]
    store.close()
    return ids


def _add(store: SweepStore, place: int, count: int, finishes: bool) -> str:
    spec = SweepSpec.model_validate(_sweep(place))
    (first,) = spec.expand()
    trials = [(_digest(place, seed), _reseeded(first, seed)) for seed in range(count)]
    sweep_id = store.add_sweep(spec, trials)
    for start in range(0, count, AT_ONCE):
        with store._transaction(writes=True) as connection:
            for number, (digest, _) in enumerate(trials[start : start + AT_ONCE], start):
                _advance(connection, digest, number, finishes)
    if finishes:
        store.finish_sweep(sweep_id)
    return sweep_id


def _copied(store: SweepStore, template: str, place: int) -> str:
    sweep_id = f"filled-{place:04d}"
    with store._transaction(writes=True) as connection:
        listed = select(SweepTrial.digest).where(SweepTrial.sweep_id == template)
        for table in TABLES:
            changed: dict[str, Any] = {
                "sweep_id": literal(sweep_id),
                "digest": literal(f"{place:0{KEYS}x}") + func.substr(table.digest, KEYS + 1)
                if table is not Sweep
                else None,
            }
            names = [column.key for column in table.__table__.columns]
            source = select(*(changed.get(name, getattr(table, name)) for name in names))
            of_template = (
                table.digest.in_(listed)
                if table in (Trial, Attempt)
                else table.sweep_id == template
            )
            connection.execute(insert(table).from_select(names, source.where(of_template)))
    return sweep_id


def _advance(connection: Connection, digest: str, number: int, finishes: bool) -> None:
    if finishes:
        _finish(connection, digest, WorkKind.TRAIN, TrialState.TRAINED, number)
        _finish(connection, digest, WorkKind.EVAL, TrialState.COMPLETED, number)
    elif number % 100 == 0:
        held = _claimed(connection, digest, WorkKind.TRAIN)
        progress = Progress(STEPS // 2, STEPS, 10_000, 900.0, 3.0, 0.5)
        leases.heartbeat(connection, held, progress, LEASE_SECONDS)


def _finish(
    connection: Connection, digest: str, kind: WorkKind, state: TrialState, number: int
) -> None:
    leases.finish(connection, _claimed(connection, digest, kind), state, _result(number))


def _claimed(connection: Connection, digest: str, kind: WorkKind) -> Claim:
    claim = leases.claim(connection, digest, kind, "filler", LEASE_SECONDS)
    assert claim is not None
    return claim


def _digest(place: int, number: int) -> str:
    return f"{place:0{KEYS}x}{number:010x}"


def _sweep(place: int) -> dict[str, Any]:
    train = {"steps": STEPS, "batch_sequences": 4, "seq_len": 16}
    rule = {"kind": "sign", "step_size": 0.01}
    base = {"model": {"preset": "tiny"}, "train": train, "balancer": rule}
    return {"name": f"filled-{place}", "base": base, "axes": {"train.seed": [0]}}


def _reseeded(trial: TrialSpec, number: int) -> TrialSpec:
    return trial.model_copy(update={"train": trial.train.model_copy(update={"seed": number})})


def _result(number: int) -> dict[str, float]:
    loss = 2.6 + 1e-4 * (number % 100)
    return {"val_bits_per_byte": loss, "max_vio": 0.5, "max_vio_floor": 0.1, "idle_frac": 0.0,
            "effective_util": 0.6, "train_seconds": 60.0, "steps": float(STEPS)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", help="of an empty store")
    parser.add_argument("--finished", type=int, default=100_000)
    parser.add_argument("--open", type=int, default=10_000)
    given = parser.parse_args()
    began = time.perf_counter()
    ids = fill(given.url, given.finished, given.open)
    print(json.dumps({"sweeps": len(ids), "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()
