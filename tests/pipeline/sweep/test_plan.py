from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evenload.pipeline.states import (
    AttemptState,
    Charge,
    Lease,
    Snapshot,
    SweepState,
    SweepStatus,
    TrialState,
    TrialStatus,
    WorkKind,
)
from evenload.pipeline.sweep.plan import (
    Action,
    Crew,
    Death,
    Expire,
    Fail,
    FinishSweep,
    Launch,
    Lose,
    PauseSweep,
    StopSweep,
    StopTrial,
    StopWorker,
    plan,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TRAIN, EVAL = WorkKind.TRAIN, WorkKind.EVAL
ONE_EACH = {TRAIN: 1, EVAL: 1}


def trial(digest: str, state: TrialState = TrialState.QUEUED, **changes: Any) -> TrialStatus:
    values: dict[str, Any] = {
        "attempt": 0,
        "failures": 0,
        "may_run": True,
        "max_retries": 2,
        "attempt_state": None,
        "worker": None,
        "lease_until": None,
        "exit_reason": None,
    }
    return TrialStatus(digest, state, **values | changes)


def held(digest: str, worker: str = "w@host:1", **changes: Any) -> TrialStatus:
    return trial(
        digest,
        **{
            "state": TrialState.TRAINING,
            "attempt": 1,
            "attempt_state": AttemptState.RUNNING,
            "worker": worker,
            "lease_until": NOW + timedelta(seconds=9),
            **changes,
        },
    )


def lost(digest: str, worker: str = "w@host:1", failures: int = 1) -> TrialStatus:
    return trial(
        digest,
        attempt=1,
        failures=failures,
        attempt_state=AttemptState.LOST,
        worker=worker,
        exit_reason="lease expired",
    )


def trials_of(submitter: str, count: int) -> list[TrialStatus]:
    return [trial(f"{submitter}{n}", submitter=submitter) for n in range(count)]


def snapshot(*trials: TrialStatus, state: SweepState = SweepState.ACTIVE) -> Snapshot:
    sweep = SweepStatus("s", state, is_expanded=True, unfinished=len(trials))
    return Snapshot(NOW, (sweep,), trials)


TABLE: dict[str, tuple[Snapshot, Crew, list[Action]]] = {
    "waiting trials go to free workers, in order": (
        snapshot(trial("a"), trial("b"), trial("c")),
        Crew(free={TRAIN: 2}),
        [Launch(TRAIN, "a"), Launch(TRAIN, "b")],
    ),
    "no free worker, no launch": (
        snapshot(trial("a"), trial("b", TrialState.TRAINED)),
        Crew(free={TRAIN: 0}),
        [],
    ),
    "evaluation comes before new training": (
        snapshot(trial("a"), trial("b", TrialState.TRAINED)),
        Crew(free=ONE_EACH),
        [Launch(EVAL, "b"), Launch(TRAIN, "a")],
    ),
    "a launched trial is not launched again before it is claimed": (
        snapshot(trial("a"), trial("b")),
        Crew(free={TRAIN: 1}, busy={"w": "a"}),
        [Launch(TRAIN, "b")],
    ),
    "a trial of a paused sweep waits": (
        snapshot(trial("a", may_run=False), state=SweepState.PAUSED),
        Crew(free=ONE_EACH),
        [],
    ),
    "a held trial with a valid lease is left alone": (
        snapshot(held("a")),
        Crew(free=ONE_EACH, busy={"w": "a"}),
        [],
    ),
    "an overdue lease expires": (
        snapshot(held("a"), held("b")),
        Crew(free=ONE_EACH, overdue=(Lease("a", 1, NOW, 20),)),
        [Expire((Lease("a", 1, NOW, 20),))],
    ),
    "a dead worker loses its trial at once, and it costs a retry": (
        snapshot(held("a")),
        Crew(free=ONE_EACH, gone={"w": Death("killed")}),
        [Lose("w@host:1", "killed", Charge.RETRY)],
    ),
    "a trial of a former coordinator's dead worker costs no retry": (
        snapshot(held("a"), held("b", worker="v@host:2")),
        Crew(orphans=frozenset({"w@host:1"})),
        [Lose("w@host:1", "its coordinator ended", Charge.NOTHING)],
    ),
    "a worker that lost its lease and hangs is ended before another gets the trial": (
        snapshot(lost("a")),
        Crew(free=ONE_EACH, busy={"w": "a"}),
        [StopWorker("w")],
    ),
    "a worker that lost one trial of a stack continues with the others": (
        snapshot(lost("a"), held("b")),
        Crew(busy={"w": "a"}),
        [],
    ),
    "a worker whose trial is held by another worker is ended": (
        snapshot(held("a", worker="other@host:2")),
        Crew(busy={"w": "a"}),
        [StopWorker("w")],
    ),
    "a worker that was launched for a retry is not mistaken for the one that lost the trial": (
        snapshot(lost("a", worker="former@host:2")),
        Crew(busy={"w": "a"}),
        [],
    ),
    "a worker that released a trial may be launched for it again": (
        snapshot(trial("a", attempt=1, attempt_state=AttemptState.RELEASED, worker="w@host:1")),
        Crew(busy={"w": "a"}),
        [],
    ),
    "a worker that still closes its sinks after the verdict is left alone": (
        snapshot(trial("b")),
        Crew(busy={"w": "a"}),
        [],
    ),
    "a lost trial is tried again up to max_retries times": (
        snapshot(lost("a", failures=2)),
        Crew(free=ONE_EACH),
        [Launch(TRAIN, "a")],
    ),
    "a trial with more lost attempts than max_retries is given up with the reason": (
        snapshot(lost("a", failures=3)),
        Crew(free=ONE_EACH),
        [Fail("a", 1, "given up after 3 lost attempts; the last one: lease expired")],
    ),
    "a host that was taken away costs no retry": (
        snapshot(held("a")),
        Crew(gone={"w": Death("its node is gone", is_preemption=True)}),
        [Lose("w@host:1", "its node is gone", Charge.PREEMPTION)],
    ),
    "preemptions and failures are counted separately": (
        snapshot(replace(lost("a", failures=2), preemptions=20)),
        Crew(free=ONE_EACH),
        [Launch(TRAIN, "a")],
    ),
    "a trial with more preemptions than max_preemptions is given up": (
        snapshot(replace(lost("a"), preemptions=21)),
        Crew(free=ONE_EACH),
        [Fail("a", 1, "given up after 21 preemptions; the last one: lease expired")],
    ),
    "a sweep whose attempts fail at once is paused, and none of its trials starts": (
        Snapshot(
            NOW,
            (
                SweepStatus("s", SweepState.ACTIVE, True, 1, fast_failures=5),
                SweepStatus("fine", SweepState.ACTIVE, True, 1, fast_failures=4),
            ),
            (trial("a", sweep_id="s"), trial("b", sweep_id="fine")),
        ),
        Crew(free={TRAIN: 2}),
        [
            PauseSweep(
                "s",
                "paused: its last 5 attempts failed right after their start; read their logs, "
                "then resume the sweep",
            ),
            Launch(TRAIN, "b"),
        ],
    ),
    "a sweep whose attempts failed at once is finished, not paused, if it has no open trial": (
        Snapshot(NOW, (SweepStatus("s", SweepState.ACTIVE, True, 0, fast_failures=5),), ()),
        Crew(free={TRAIN: 2}),
        [FinishSweep("s")],
    ),
    "submitters get equally many workers, and each one's trials keep their order": (
        snapshot(*(trial(f"a{n}", submitter="ann") for n in range(4)), *trials_of("bob", 2)),
        Crew(free={TRAIN: 4}),
        [Launch(TRAIN, digest) for digest in ("a0", "bob0", "a1", "bob1")],
    ),
    "a submitter who has workers waits for one who has none": (
        snapshot(held("a", submitter="ann"), *trials_of("ann", 1), *trials_of("bob", 1)),
        Crew(free={TRAIN: 1}, busy={"w": "a"}),
        [Launch(TRAIN, "bob0")],
    ),
    "a worker that was launched counts before it has claimed its trial": (
        snapshot(*trials_of("ann", 2), *trials_of("bob", 1)),
        Crew(free={TRAIN: 1}, busy={"w": "ann0"}),
        [Launch(TRAIN, "bob0")],
    ),
    "a worker with a stack of trials counts once": (
        snapshot(
            *(held(f"a{n}", submitter="ann") for n in range(8)),
            held("b", worker="v@host:1", submitter="bob"),
            *trials_of("ann", 1),
            *trials_of("bob", 1),
        ),
        Crew(free={TRAIN: 1}),
        [Launch(TRAIN, "ann0")],
    ),
    "with one worker submitters take turns; who was served the longest ago is next": (
        replace(
            snapshot(*trials_of("ann", 1), *trials_of("bob", 1), *trials_of("cyd", 1)),
            served=("ann", "cyd", "bob", "gone"),
        ),
        Crew(free={TRAIN: 1}),
        [Launch(TRAIN, "bob0")],
    ),
    "a submitter who was never served is next": (
        replace(snapshot(*trials_of("ann", 1), *trials_of("bob", 1)), served=("ann",)),
        Crew(free={TRAIN: 1}),
        [Launch(TRAIN, "bob0")],
    ),
    "a stopping sweep without unfinished trials is finished": (
        snapshot(state=SweepState.STOPPING),
        Crew(),
        [FinishSweep("s")],
    ),
    "a sweep without unfinished trials is finished": (snapshot(), Crew(), [FinishSweep("s")]),
    "a finished sweep is not finished again": (
        snapshot(state=SweepState.FINISHED),
        Crew(),
        [],
    ),
    "a sweep whose trials are not listed yet is not finished": (
        Snapshot(NOW, (SweepStatus("s", SweepState.ACTIVE, False, 0),), ()),
        Crew(),
        [],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_plan(case: str) -> None:
    facts, crew, actions = TABLE[case]
    assert plan(facts, crew) == actions


@pytest.mark.parametrize("case", TABLE)
def test_plan_is_a_pure_function(case: str) -> None:
    facts, crew, _ = TABLE[case]
    assert plan(facts, crew) == plan(facts, crew)


def test_a_trial_over_its_limit_is_asked_to_stop_and_then_made_to() -> None:
    late = {"limit_hours": 1.0, "held_seconds": 3601.0}
    reason = "limits.hours=1: held for 1 h 00 min"
    assert plan(snapshot(held("a", **late)), Crew(busy={"w": "a"})) == [StopTrial("a", reason)]
    waiting = trial("a", attempt=1, **late)
    assert plan(snapshot(waiting), Crew(ONE_EACH)) == [StopTrial("a", reason)], (
        "and is not launched"
    )
    told = {**late, "may_run": False}
    assert plan(snapshot(held("a", **told)), Crew(busy={"w": "a"})) == []
    hangs = {**told, "held_seconds": 3600.0 + 301.0}
    assert plan(snapshot(held("a", **hangs)), Crew(busy={"w": "a"})) == [StopWorker("w")]
    assert (
        plan(snapshot(held("a", limit_hours=1.0, held_seconds=3599.0)), Crew(busy={"w": "a"})) == []
    )


def test_a_trained_trial_over_its_limit_is_evaluated_but_not_for_ever() -> None:
    trained = trial("a", TrialState.TRAINED, attempt=1, limit_hours=1.0, held_seconds=3601.0)
    assert plan(snapshot(trained), Crew(ONE_EACH)) == [Launch(EVAL, "a")]
    [given_up] = plan(snapshot(replace(trained, held_seconds=4020.0)), Crew())
    assert isinstance(given_up, Fail)
    assert given_up.reason == "limits.hours=1: held for 1 h 07 min, and not evaluated by then"


@pytest.mark.parametrize("then", ["finish", "pause"])
def test_a_sweep_over_its_limit_ends_as_its_spec_says_and_starts_nothing(then: str) -> None:
    status = SweepStatus(
        "s", SweepState.ACTIVE, True, 1, limits={"hours": 2.0, "then": then}, spent_seconds=7201.0
    )
    found = Snapshot(NOW, (status,), (trial("a", sweep_id="s"),))
    [action] = plan(found, Crew(ONE_EACH))
    assert isinstance(action, StopSweep if then == "finish" else PauseSweep)
    assert "limits.hours=2: it works for 2 h 00 min" in action.note
    assert Launch(TRAIN, "a") in plan(
        replace(found, sweeps=(replace(status, spent_seconds=7199.0),)), Crew(ONE_EACH)
    )
