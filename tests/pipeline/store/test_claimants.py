"""Many workers claim trials from one PostgreSQL at once."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from tests.pipeline.store.postgres import empty_tables

CLAIMANTS = 64
Listed = list[tuple[str, TrialSpec]]


@pytest.mark.postgres
@pytest.mark.parametrize("trials", [96, pytest.param(2000, marks=pytest.mark.slow)])
def test_64_claimants_take_every_trial_and_none_twice(
    trials: int,
    postgres_url: str,
    open_store: Callable[[str], SweepStore],
    make_sweep: Callable[..., tuple[SweepSpec, Listed]],
) -> None:
    empty_tables(postgres_url)
    stores = [open_store(postgres_url) for _ in range(CLAIMANTS)]
    spec, ((_, trial),) = make_sweep(1)
    digests = [f"t{at:04}" for at in range(trials)]
    stores[0].add_sweep(spec, [(digest, trial) for digest in digests])
    all_there = threading.Barrier(CLAIMANTS)

    def work(number: int) -> list[str]:
        taken = []
        all_there.wait()
        while claim := stores[number].claim_next(WorkKind.TRAIN, f"w{number}", 600.0):
            taken.append(claim.digest)
        return taken

    with ThreadPoolExecutor(CLAIMANTS) as pool:
        taken = list(pool.map(work, range(CLAIMANTS)))
    assert Counter(digest for each in taken for digest in each) == Counter(digests)
    assert sum(map(bool, taken)) > CLAIMANTS // 2, "they did not work at once"
