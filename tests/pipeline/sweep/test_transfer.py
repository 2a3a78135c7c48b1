from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.sweep.axes import axes_of
from evenload.pipeline.sweep.transfer import Transfer
from evenload.pipeline.sweep.transfer import transfers as transfers_along

Row = Callable[..., TrialRecord]
STEPS = (0.001, 0.01, 0.1)


def trial(experts: int, step: float, seed: int, **balancer: Any) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": experts},
            "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16, "seed": seed},
            "balancer": {"kind": "sign", "step_size": step} | balancer,
        }
    )


def transfers(rows: Sequence[TrialRecord]) -> tuple[Transfer, ...]:
    return transfers_along(rows, axes_of(rows))


def grid(
    row: Row, few: Sequence[float], many: Sequence[float], *, seeds: int = 5, noise: float = 0.001
) -> list[TrialRecord]:
    """Rows of three step sizes at 16 and 64 experts. A seed shifts its losses, noise each one."""
    rng = random.Random(0)
    rows = []
    for seed in range(seeds):
        luck = rng.gauss(0, 0.1)
        for experts, losses in ((16, few), (64, many)):
            for step, loss in zip(STEPS, losses, strict=True):
                rows.append(row(trial(experts, step, seed), loss + luck + rng.gauss(0, noise)))
    return rows


def test_a_step_that_is_best_at_both_transfers(row: Row) -> None:
    [found] = transfers(grid(row, (3.0, 2.9, 3.1), (3.0, 2.9, 3.1)))
    assert (found.kind, found.from_experts, found.to_experts, found.seeds) == ("sign", 16, 64, 5)
    assert (found.best_from, found.best_to, found.transfers) == (0.01, 0.01, True)
    assert found.probability is not None
    assert found.probability > 0.99
    assert found.price.mean == 0


def test_a_step_that_does_not_transfer_has_a_price(row: Row) -> None:
    [found] = transfers(grid(row, (3.0, 2.9, 3.1), (3.0, 2.9, 2.8)))
    assert (found.best_from, found.best_to, found.transfers) == (0.01, 0.1, False)
    assert found.probability is not None
    assert found.probability < 0.01
    assert found.price.mean == pytest.approx(0.1, abs=0.005)
    assert found.price.half is not None
    assert found.price.half < 0.01  # the level of a seed cancels within the pair


def test_if_noise_decides_the_probability_is_near_chance(row: Row) -> None:
    [found] = transfers(grid(row, (3.0, 3.0, 3.0), (3.0, 3.0, 3.0), noise=0.05))
    assert found.probability is not None
    assert 0.1 < found.probability < 0.7


def test_one_seed_gives_no_probability(row: Row) -> None:
    [found] = transfers(grid(row, (3.0, 2.9, 3.1), (3.0, 2.9, 2.8), seeds=1))
    assert found.probability is None
    assert found.price.half is None


def test_only_steps_that_finished_everywhere_are_compared(row: Row) -> None:
    rows = grid(row, (3.0, 2.9, 2.0), (3.0, 2.9, 2.0), seeds=2)
    broken = [
        row(trial(64, 0.1, 1), state=TrialState.FAILED) if (r.digest == rows[-1].digest) else r
        for r in rows
    ]
    [found] = transfers(broken)
    assert found.best_from == 0.01


def test_another_schedule_is_another_rule(row: Row) -> None:
    rows = [
        row(trial(experts, step, 0, schedule=schedule))
        for experts in (16, 64)
        for step in STEPS
        for schedule in ("constant", "inverse")
    ]
    assert [found.kind for found in transfers(rows)] == ["sign", "sign schedule=inverse"]


def test_one_expert_count_or_one_step_size_gives_no_transfer(row: Row) -> None:
    assert transfers([row(trial(16, step, 0)) for step in STEPS]) == ()
    assert transfers([row(trial(experts, 0.01, 0)) for experts in (16, 64)]) == ()


def test_learning_rates_are_compared_apart(row: Row) -> None:
    """At the higher rate another step size is best; an average over both would hide it."""
    rows = []
    for rate, losses in ((0.001, (2.0, 2.5, 2.9)), (0.01, (3.0, 2.9, 2.0))):
        for experts in (16, 64):
            for step, loss in zip(STEPS, losses, strict=True):
                spec = trial(experts, step, 0)
                train = spec.train.model_copy(update={"learning_rate": rate})
                rows.append(row(spec.model_copy(update={"train": train}), loss))
    assert {found.kind: found.best_to for found in transfers(rows)} == {
        "sign learning_rate=0.001": 0.001,
        "sign learning_rate=0.01": 0.1,
    }
