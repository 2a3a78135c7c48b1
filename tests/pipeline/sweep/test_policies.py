from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import CurvePoint, Order, Stage, SweepState, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import policies as policies_module
from evenload.pipeline.sweep.policies import SweepPolicies
from evenload.pipeline.sweep.search import propose

STEP = {"low": 0.001, "high": 0.1, "log": True}
TPE = {"kind": "tpe", "startup": 2, "settings": 3}
RESULT = {
    "val_bits_per_byte": 3.0,
    "max_vio": 0.5,
    "max_vio_floor": 0.1,
    "idle_frac": 0.0,
    "effective_util": 0.7,
}


def identify(_: str, trials: Sequence[TrialSpec]) -> list[tuple[str, TrialSpec]]:
    return [(trial.digest("corpus", "core"), trial) for trial in trials]


def sweep(**more: Any) -> SweepSpec:
    base = {
        "model": {"preset": "tiny"},
        "train": {"steps": 100, "batch_sequences": 4, "seq_len": 16},
        "balancer": {"kind": "sign"},
        "eval": {"every_steps": 10},
    }
    given: dict[str, Any] = {"axes": {"balancer.step_size": STEP}, "search": TPE}
    return SweepSpec(name="s", base=base, **given | more)


@pytest.fixture
def store(tmp_path: Path) -> SweepStore:
    store = SweepStore(f"sqlite:///{tmp_path / 'store.db'}")
    store.migrate()
    return store


@pytest.fixture(autouse=True)
def _reads_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies_module, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(policies_module, "MAX_SHARE", 1e9)


def add(store: SweepStore, spec: SweepSpec) -> str:
    return store.add_sweep(spec, identify("", propose(spec)))


def complete(
    store: SweepStore, digest: str, loss: float = 3.0, figures: dict[str, float] | None = None
) -> None:
    """Args: figures: instead of the usual ones"""
    found = RESULT | {"val_bits_per_byte": loss} if figures is None else figures
    for kind, state in (
        (WorkKind.TRAIN, TrialState.TRAINED),
        (WorkKind.EVAL, TrialState.COMPLETED),
    ):
        claim = store.claim(digest, kind, "w@host:1", 60)
        assert claim is not None
        store.finish(claim, state, found)


def complete_all(store: SweepStore, sweep_id: str) -> None:
    for trial in store.trials(sweep_id):
        if not trial.state.is_final:
            complete(store, trial.digest)


def test_a_sweep_grows_by_its_search_then_by_its_confirm_stage_then_ends(store: SweepStore) -> None:
    sweep_id = add(store, sweep(confirm={"top": 1, "seeds": [7, 8]}))
    policies = SweepPolicies(store, identify)
    sizes, went_on = [], []
    for _ in range(4):
        complete_all(store, sweep_id)
        went_on.append(policies.apply(sweep_id, room=1))
        sizes.append(len(store.trials(sweep_id)))
    assert sizes == [3, 5, 5, 5]
    assert went_on == [True, True, False, False]
    stages = [trial.stage for trial in store.trials(sweep_id)]
    assert stages == [Stage.TUNE] * 3 + [Stage.CONFIRM] * 2
    assert [trial.spec["train"]["seed"] for trial in store.trials(sweep_id)[3:]] == [7, 8]


def test_new_policies_continue_where_former_ones_ended(store: SweepStore) -> None:
    """A coordinator may be killed after any round."""
    sweep_id = add(store, sweep(confirm={"top": 1, "seeds": [7, 8]}))
    for _ in range(4):
        complete_all(store, sweep_id)
        SweepPolicies(store, identify).apply(sweep_id, room=1)
    assert len(store.trials(sweep_id)) == 5


def test_without_room_nothing_is_added_and_nothing_ends(store: SweepStore) -> None:
    sweep_id = add(store, sweep())
    complete_all(store, sweep_id)
    assert SweepPolicies(store, identify).apply(sweep_id, room=0)
    assert len(store.trials(sweep_id)) == 2


def test_the_trials_of_a_grid_are_not_read(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = add(store, sweep(axes={"balancer.step_size": [0.01]}, search={"kind": "grid"}))
    policies = SweepPolicies(store, identify)
    policies.apply(sweep_id, room=1)
    monkeypatch.setattr(store, "trials", lambda _: pytest.fail("the rows were read"))
    assert not policies.apply(sweep_id, room=1)


def test_a_hopeless_trial_is_ordered_to_stop_with_its_reason(store: SweepStore) -> None:
    spec = sweep(
        axes={"balancer.step_size": [0.001, 0.01, 0.1]},
        search={"kind": "grid"},
        stopping={"kind": "asha", "first_rung": 0.1},
    )
    sweep_id = add(store, spec)
    for trial, loss in zip(store.trials(sweep_id), (3.0, 3.5, 2.9), strict=True):
        claim = store.claim(trial.digest, WorkKind.TRAIN, "w@host:1", 60)
        assert claim is not None
        store.record_curve(claim, [CurvePoint(10, 640, 1.0, loss, 0.1)])
    SweepPolicies(store, identify).apply(sweep_id, room=0)
    ordered = [trial.ordered for trial in store.trials(sweep_id)]
    assert ordered == [None, Order.STOP, None]
    reason = store.trials(sweep_id)[1].stop_reason
    assert reason is not None
    assert reason.startswith("asha: held-out loss 3.5000 at step 10 has rank 3 (best")


def test_a_sweep_whose_further_trials_cannot_run_is_paused_with_the_reason(
    store: SweepStore,
) -> None:
    def refuse(_: str, __: Sequence[TrialSpec]) -> list[tuple[str, TrialSpec]]:
        raise SpecError("no such corpus")

    sweep_id = add(store, sweep())
    complete_all(store, sweep_id)
    assert SweepPolicies(store, refuse).apply(sweep_id, room=1)
    found = store.sweep(sweep_id)
    assert (found.state, found.note) == (SweepState.PAUSED, "no such corpus")


def test_a_proposed_setting_that_is_not_a_valid_trial_pauses_the_sweep(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def invalid(*_: object) -> None:
        raise ValueError("no valid trial")

    sweep_id = add(store, sweep())
    complete_all(store, sweep_id)
    monkeypatch.setattr(policies_module, "next_trials", invalid)
    assert SweepPolicies(store, identify).apply(sweep_id, room=1)
    assert store.sweep(sweep_id).note == "no valid trial"


def test_a_sweep_whose_further_trials_are_listed_already_ends(
    store: SweepStore,
) -> None:
    """The digest is listed already, under a spec that differs in telemetry."""

    def same(_: str, trials: Sequence[TrialSpec]) -> list[tuple[str, TrialSpec]]:
        return [(store.trials(sweep_id)[0].digest, trial) for trial in trials]

    sweep_id = add(store, sweep())
    complete_all(store, sweep_id)
    assert not SweepPolicies(store, same).apply(sweep_id, room=1)


def test_reading_takes_a_small_share_of_the_time(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies_module, "MIN_SECONDS", 60.0)
    sweep_id = add(store, sweep())
    complete_all(store, sweep_id)
    policies = SweepPolicies(store, identify)
    assert policies.apply(sweep_id, room=1)
    assert len(store.trials(sweep_id)) == 3
    complete_all(store, sweep_id)
    assert policies.apply(sweep_id, room=1)  # not read, so it may still grow


def test_a_race_grows_round_by_round_and_ends(store: SweepStore) -> None:
    """The losses are too noisy for a claim. Every round has another coordinator."""
    race = {"kind": "racing", "block": 2, "rounds": 3}
    rules = {"balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}]}
    sweep_id = add(store, sweep(axes=rules, search=race))
    sizes, went_on = [], []
    for _ in range(4):
        for number, trial in enumerate(store.trials(sweep_id)):
            if not trial.state.is_final:
                complete(store, trial.digest, 3.0 + 0.1 * (number % 4 in (0, 3)))
        went_on.append(SweepPolicies(store, identify).apply(sweep_id, room=1))
        sizes.append(len(store.trials(sweep_id)))
    assert (sizes, went_on) == ([8, 12, 12, 12], [True, True, False, False])
    seeds = [trial.spec["train"]["seed"] for trial in store.trials(sweep_id)]
    assert seeds == [seed for seed in range(6) for _ in range(2)]


@pytest.mark.parametrize("figure", [math.nan, math.inf, None], ids=["NaN", "infinite", "missing"])
@pytest.mark.parametrize("objectives", [("loss",), ("loss", "imbalance")])
def test_a_search_goes_on_past_a_trial_without_a_figure(
    store: SweepStore, figure: float | None, objectives: tuple[str, ...]
) -> None:
    spec = sweep(search=TPE | {"objectives": objectives})
    sweep_id = add(store, spec)
    first, *others = store.trials(sweep_id)
    odd = {} if figure is None else dict.fromkeys(RESULT, figure)
    complete(store, first.digest, figures=odd)
    for trial in others:
        complete(store, trial.digest)
    assert SweepPolicies(store, identify).apply(sweep_id, room=1)
    assert store.sweep(sweep_id).note is None
    assert len(store.trials(sweep_id)) == 2 + len(others)


def test_policies_that_fail_pause_their_sweep_and_not_the_coordinator(
    store: SweepStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("val_loss")

    monkeypatch.setattr(policies_module, "next_trials", broken)
    sweep_id = add(store, sweep())
    assert SweepPolicies(store, identify).apply(sweep_id, room=1)
    assert store.sweep(sweep_id).state is SweepState.PAUSED
    assert store.sweep(sweep_id).note == "KeyError: 'val_loss'"
    assert "Traceback" in caplog.text
