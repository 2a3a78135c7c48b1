from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from evenload.pipeline.figures import cost
from evenload.pipeline.figures.cost import (
    CostSettings,
    Recorded,
    TrialCost,
    recorded,
    sweep_cost,
    trial_cost,
)
from evenload.pipeline.figures.loads import History, ep_effective_util
from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.records.shards import SCALARS
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import AttemptRecord, AttemptState, TrialRecord, TrialState, WorkKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = CostSettings(gpu_watts=500, core_watts=10, grams_per_kwh=100, carbon_source="a test")


def _spec(
    device: str = "cpu", threads: int = 2, num_experts: int = 8, workers: int = 1
) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny", "num_experts": num_experts},
            "balancer": {"kind": "none"},
            "train": {"steps": 8, "batch_sequences": 4, "seq_len": 64},
            "runtime": {
                "device": device,
                "threads": threads,
                "backend": "torch",
                "workers": workers,
            },
        }
    )


def _history(count_SLE: np.ndarray, first: int = 1, seconds: float = 2.0) -> History:
    S = len(count_SLE)
    return History(
        np.arange(first, first + S),
        count_SLE.astype(np.int32),
        np.zeros((S, 0, 0), np.float32),
        {name: np.full(S, seconds) for name in SCALARS},
    )


def _trial(spec: TrialSpec, **result: float) -> TrialRecord:
    return TrialRecord(
        digest="d" * 16,
        label="none",
        spec=spec.model_dump(mode="json"),
        state=TrialState.COMPLETED,
        attempt=1,
        failures=0,
        progress=None,
        result=result,
        error=None,
        worker=None,
        run_id=None,
        checkpoint_uri=None,
        lease_until=None,
        heartbeat_at=None,
        created_at=NOW,
        started_at=NOW,
        finished_at=NOW,
    )


def _attempt(start: float, end: float, worker: str = "w", ended: bool = True) -> AttemptRecord:
    first, last = NOW + timedelta(seconds=start), NOW + timedelta(seconds=end)
    return AttemptRecord(
        digest="d" * 16,
        number=1,
        kind=WorkKind.TRAIN,
        worker=worker,
        state=AttemptState.DONE if ended else AttemptState.LOST,
        started_at=first,
        heartbeat_at=first if ended else last,
        lease_until=last,
        ended_at=last if ended else None,
        exit_reason=None,
    )


def _cost(digest: str, seconds: float, stretch: dict[int, float]) -> TrialCost:
    found = Recorded(8, seconds, stretch, {})
    return trial_cost(replace(_trial(_spec()), digest=digest), found, SETTINGS)


def test_an_even_load_wastes_nothing_at_any_size() -> None:
    found = recorded([_history(np.full((8, 2, 8), 16))], _spec())
    assert [w.ranks for w in cost.waiting(found, _spec().model, 64)] == [2, 4, 8]
    for waiting in cost.waiting(found, _spec().model, 64):
        assert waiting[1:] == (0, 0, 0)


def test_one_overloaded_expert_makes_every_other_rank_wait() -> None:
    count_E = np.array([72, 8, 8, 8, 8, 8, 8, 8])  # of 128 assignments
    spec = _spec()
    found = recorded([_history(np.broadcast_to(count_E, (8, 2, 8)))], spec)
    # Fullest over mean rank: 72 / 16 with one expert per rank, 80 / 32 with two, 96 / 64 with four.
    assert found.stretch == pytest.approx({8: 4.5, 4: 2.5, 2: 1.5})
    by_size = {w.ranks: w for w in cost.waiting(found, spec.model, 64)}
    assert by_size[8].expert_share == pytest.approx(1 - 16 / 72)
    size = model_size(spec.model)
    expert = size.routed_flops_per_token / size.forward_flops_per_token(64)
    assert by_size[8].step_share == pytest.approx(1 - 1 / (1 - expert + expert * 4.5))
    assert by_size[8].step_share < by_size[8].expert_share


def test_lost_time_is_a_share_of_the_total_time_and_not_a_mean_of_shares() -> None:
    """With three even steps and one that takes three times as long, 2 of 6 units are lost."""
    even, skewed = np.full((2, 8), 112), np.array([[336, *[80] * 7]] * 2)
    found = recorded([_history(np.stack([even, even, even, skewed]))], _spec())
    (_, _, largest) = cost.waiting(found, _spec().model, 64)
    assert largest.expert_share == pytest.approx(2 / 6)
    mean_of_ratios = 1 - float(ep_effective_util(np.stack([even, even, even, skewed]), 8).mean())
    assert largest.expert_share != pytest.approx(mean_of_ratios, abs=0.05)


def test_the_steady_share_is_that_of_the_last_quarter() -> None:
    skewed, even = np.array([[128, *[0] * 7]] * 2), np.full((2, 8), 16)
    first = _history(np.stack([skewed] * 6))
    found = recorded([first, _history(np.stack([even] * 2), first=7)], _spec())
    (*_, largest) = cost.waiting(found, _spec().model, 64)
    assert largest.steady_step_share == 0 < largest.step_share
    begun = recorded([first], _spec())
    assert all(math.isnan(w.steady_step_share) for w in cost.waiting(begun, _spec().model, 64))


def test_parts_add_up_to_the_whole() -> None:
    count_SLE = np.random.default_rng(0).integers(1, 50, (8, 2, 8))
    whole = recorded([_history(count_SLE)], _spec())
    parts = recorded([_history(count_SLE[:3]), _history(count_SLE[3:], first=4)], _spec())
    assert (parts.steps, parts.seconds) == (whole.steps, whole.seconds) == (8, 16.0)
    assert parts.stretch == pytest.approx(whole.stretch)
    assert parts.steady_stretch == pytest.approx(whole.steady_stretch)


def test_sizes_that_do_not_divide_the_experts_are_left_out() -> None:
    found = recorded([_history(np.full((8, 2, 12), 16))], _spec(num_experts=12))
    assert list(found.stretch) == [2, 4]


def test_a_cpu_trial_costs_cores_and_a_gpu_trial_costs_gpus() -> None:
    found = Recorded(8, 3600.0, {}, {})
    cpu = trial_cost(_trial(_spec("cpu", threads=2)), found, SETTINGS)
    assert (cpu.gpu_seconds, cpu.core_seconds, cpu.joules) == (0, 7200, 72_000)
    gpu = trial_cost(_trial(_spec("cuda")), found, SETTINGS)
    assert (gpu.gpu_seconds, gpu.core_seconds, gpu.joules) == (3600, 0, 1_800_000)
    assert gpu.grams == pytest.approx(50)  # half a kWh
    assert not gpu.is_measured


def test_a_counter_overrides_the_model_and_covers_every_step() -> None:
    found = Recorded(8, 3600.0, {}, {})
    measured = trial_cost(_trial(_spec("cuda"), joules_per_step=1000.0), found, SETTINGS)
    assert (measured.joules, measured.is_measured) == (8000, True)
    housed = trial_cost(
        _trial(_spec("cuda"), joules_per_step=1000.0),
        found,
        SETTINGS.model_copy(update={"overhead": 1.5}),
    )
    assert housed.joules == 12_000


def test_the_cost_covers_every_worker_of_a_trial() -> None:
    found = Recorded(8, 100.0, {}, {})
    cpu = trial_cost(_trial(_spec("cpu", threads=2, workers=4)), found, SETTINGS)
    assert (cpu.core_seconds, cpu.joules) == (800, 8000)
    gpu = _trial(_spec("cuda", workers=4), joules_per_step=1000.0)
    assert trial_cost(gpu, found, SETTINGS).gpu_seconds == 400
    assert trial_cost(gpu, found, SETTINGS).joules == 32_000


def test_held_seconds_cover_lost_attempts_up_to_their_last_heartbeat() -> None:
    assert cost.held_seconds([_attempt(0, 100), _attempt(200, 240, ended=False)]) == 140
    assert cost.held_seconds([]) == 0


def test_the_time_of_a_worker_that_trains_several_trials_counts_once() -> None:
    together = [_attempt(0, 100), _attempt(5, 90), _attempt(50, 120), _attempt(130, 150)]
    assert cost.held_seconds(together) == 140
    assert cost.held_seconds([*together, _attempt(0, 100, worker="v")]) == 240


def test_a_sweep_sums_trials_and_weights_their_waiting_by_time() -> None:
    total = sweep_cost([_cost("a", 30.0, {2: 1.0}), _cost("b", 10.0, {2: 2.0, 4: 2.0})])
    assert total.core_seconds == 80
    assert total.joules == 800
    assert [w.ranks for w in total.waiting] == [2, 4]
    assert total.waiting[0].expert_share == pytest.approx(0.125)
    assert total.waiting[1].expert_share == pytest.approx(0.5)
    assert math.isnan(total.waiting[0].steady_step_share)


def test_a_sweep_without_a_step_costs_nothing() -> None:
    total = sweep_cost([_cost("a", 0.0, {})])
    assert (total.joules, total.grams, total.waiting) == (0, 0, ())
    assert "modelled as nothing" in cost.basis(total, SETTINGS)


def test_the_basis_names_every_factor_and_its_source() -> None:
    text = cost.basis(sweep_cost([_cost("a", 30.0, {})]), SETTINGS)
    for words in ("as 10 W per CPU core over", "without the building", "100 g CO2e", "a test"):
        assert words in text
    housed = SETTINGS.model_copy(update={"overhead": 1.5})
    on_gpu = sweep_cost([trial_cost(_trial(_spec("cuda")), Recorded(8, 1.0, {}, {}), housed)])
    assert "as 500 W per GPU over" in cost.basis(on_gpu, housed)
    assert "times 1.5 for the building" in cost.basis(on_gpu, housed)
    gpu = _trial(_spec("cuda"), joules_per_step=1.0)
    counted = sweep_cost([trial_cost(gpu, Recorded(8, 1.0, {}, {}), SETTINGS)])
    assert "NVML" in cost.basis(counted, SETTINGS)
    assert "modelled" not in cost.basis(counted, SETTINGS)


def test_a_carbon_factor_without_a_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_COST_GRAMS_PER_KWH", "56")
    with pytest.raises(ValidationError, match="grams_per_kwh=56 has no source"):
        CostSettings()
    monkeypatch.setenv("EVENLOAD_COST_CARBON_SOURCE", "France 2023, Ember")
    assert CostSettings().grams_per_kwh == 56


def test_an_empty_variable_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_COST_GRAMS_PER_KWH", "")
    monkeypatch.setenv("EVENLOAD_COST_GPU_WATTS", "")
    assert CostSettings() == CostSettings.model_construct()
