"""Sweeps of many trials: a whole sweep on a simulated cluster, and the time of its parts."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.coordinator import Coordinator
from evenload.pipeline.sweep.plan import Crew, plan
from infra.benchmarks.simulated_cluster import SimulatedCluster, SimulatedExecutor

POLL_SECONDS = 5.0  # on the simulated clock
RESTART_EVERY_SECONDS = 60.0
DEATH_SHARE = 0.01
REPEATS = 20
BASE = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}


def run(quick: bool = False) -> dict[str, Any]:
    trials, workers = (500, 50) if quick else (10_000, 1000)
    with tempfile.TemporaryDirectory() as folder:
        store = SweepStore(Settings(home=Path(folder)).store_url)
        store.migrate()
        sweep_id = submit(store, trials)
        document = {
            "trials": trials,
            "workers": workers,
            "parts": {**parts(store, sweep_id), "status": status_seconds(Path(folder), sweep_id)},
            "sweep": simulate(store, sweep_id, workers),
        }
        store.close()
    return document


def table(document: dict[str, Any]) -> str:
    parts, sweep = document["parts"], document["sweep"]
    lines = [f"{document['trials']:,} trials, all waiting (median of {REPEATS}):"]
    lines += [f"  {name:<10}{seconds * 1e3:8.1f} ms" for name, seconds in parts.items()]
    lines += [
        f"a sweep of them over {document['workers']:,} workers, {DEATH_SHARE:.0%} of the attempts "
        f"killed, a new coordinator every {RESTART_EVERY_SECONDS:.0f} s:",
        f"  {sweep['simulated_seconds']:,.0f} simulated s in {sweep['seconds']:.1f} s, "
        f"{sweep['restarts']} restarts, {sweep['deaths']} deaths, "
        f"{sweep['completed']:,} completed, {sweep['trained_twice']} trained twice, "
        f"{sweep['memory_bytes'] / 2**20:.0f} MiB more memory",
    ]
    return "\n".join(lines)


def submit(store: SweepStore, trials: int) -> str:
    """Stores a sweep with this many trials, which differ only in their seed."""
    spec = SweepSpec(name="simulated", base=BASE, axes={"train.seed": [0]})
    (trial,) = spec.expand()
    return store.add_sweep(spec, [(f"{seed:016x}", trial) for seed in range(trials)])


def parts(store: SweepStore, sweep_id: str) -> dict[str, float]:
    """Seconds of each part of a coordinator's round with this many rows."""
    snapshot = store.snapshot([sweep_id])
    crew = Crew(free=dict.fromkeys(WorkKind, 1000))
    return {
        "snapshot": _median_seconds(lambda: store.snapshot([sweep_id], max_unstarted=1000)),
        "plan": _median_seconds(lambda: plan(snapshot, crew)),
        "trials": _median_seconds(lambda: store.trials(sweep_id)),
        "claim": _median_seconds(lambda: _claimed(store)),
    }


def status_seconds(home: Path, sweep_id: str) -> float:
    """Seconds of a whole process of `evenload sweep status`."""
    command = [str(Path(sys.executable).with_name("evenload")), "sweep", "status", sweep_id]
    environment = os.environ | {"EVENLOAD_HOME": str(home)}

    def status() -> None:
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

    return _median_seconds(status, repeats=5)


def simulate(store: SweepStore, sweep_id: str, workers: int) -> dict[str, Any]:
    """Runs the sweep to its end and replaces the coordinator every simulated minute."""
    cluster = SimulatedCluster(store, workers, DEATH_SHARE)
    memory, started, restarts = _peak_bytes(), time.perf_counter(), 0
    while not _coordinate(store, sweep_id, cluster):
        restarts += 1
    states = [trial.state for trial in store.trials(sweep_id)]
    return {
        "seconds": time.perf_counter() - started,
        "simulated_seconds": cluster.now_seconds,
        "restarts": restarts,
        "deaths": cluster.num_deaths,
        "completed": states.count(TrialState.COMPLETED),
        "trained_twice": cluster.verdicts[WorkKind.TRAIN] - len(states),
        "memory_bytes": _peak_bytes() - memory,
    }


def _coordinate(store: SweepStore, sweep_id: str, cluster: SimulatedCluster) -> bool:
    """Runs one coordinator until it is replaced. Returns True if the sweep is over."""
    executor = SimulatedExecutor(cluster)
    coordinator = Coordinator(store, executor)
    ends_at = cluster.now_seconds + RESTART_EVERY_SECONDS
    while cluster.now_seconds < ends_at:
        if coordinator.round((sweep_id,)):
            return True
        executor.wait(POLL_SECONDS)
    return False


def _claimed(store: SweepStore) -> None:
    claim = store.claim_next(WorkKind.TRAIN, "bench", 60.0)
    assert claim is not None
    store.release(claim)


def _median_seconds(call: Callable[[], object], repeats: int = REPEATS) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
