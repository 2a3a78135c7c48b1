"""What must be true after every step of a simulated world, and at its end."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import text

from evenload.pipeline.states import AttemptState, SweepState, TrialState
from tests.simulation.world import STEPS, Violation, World

Row = dict[str, Any]
TRIALS = "SELECT digest, state, attempt, failures, preemptions, result, finished_at FROM trial"
ATTEMPTS = "SELECT digest, number, kind, worker, state, exit_reason FROM attempt ORDER BY number"
OPEN_IN_FINISHED = """
    SELECT sweep.sweep_id, trial.digest, trial.state FROM sweep
    JOIN sweep_trial ON sweep_trial.sweep_id = sweep.sweep_id
    JOIN trial ON trial.digest = sweep_trial.digest
    WHERE sweep.state = 'finished'
      AND trial.state NOT IN ('completed', 'failed', 'stopped', 'cancelled')
"""


class Watcher:
    """Compares every state of the database with the one before it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._before: dict[str, Row] = {}
        self._ended: dict[str, Any] = {}
        self._judged: set[tuple[str, int]] = set()

    def check(self) -> None:
        """Raises: Violation"""
        with self._world.store._engine.connect() as connection:
            trials = [dict(row) for row in connection.execute(text(TRIALS)).mappings()]
            attempts = [dict(row) for row in connection.execute(text(ATTEMPTS)).mappings()]
            wrong = connection.execute(text(OPEN_IN_FINISHED)).all()
            ends = connection.execute(text("SELECT sweep_id, state, finished_at FROM sweep")).all()
        if wrong:
            raise Violation(f"a finished sweep has an open trial: {tuple(wrong[0])}")
        for trial in trials:
            own = [attempt for attempt in attempts if attempt["digest"] == trial["digest"]]
            self._check_attempts(trial, own)
            if (before := self._before.get(trial["digest"])) is not None:
                self._check_change(before, trial, own)
        for sweep_id, state, finished_at in ends:
            if state == SweepState.CANCELLED and self._ended.get(sweep_id) not in (
                None,
                finished_at,
            ):
                raise Violation(f"the end of {sweep_id} moved")
            self._ended[sweep_id] = finished_at if state == SweepState.CANCELLED else None
        self._before = {trial["digest"]: trial for trial in trials}

    def _check_attempts(self, trial: Row, attempts: list[Row]) -> None:
        numbers = [attempt["number"] for attempt in attempts]
        if numbers != list(range(1, trial["attempt"] + 1)):
            raise Violation(f"{trial['digest']} has attempts {numbers}, counted {trial['attempt']}")
        running = [a["number"] for a in attempts if a["state"] == AttemptState.RUNNING]
        held = [trial["attempt"]] if TrialState(trial["state"]).is_held else []
        if running != held:
            raise Violation(f"{trial['digest']} is {trial['state']}, running are {running}")
        for attempt in attempts:
            key = (attempt["digest"], attempt["number"])
            if attempt["exit_reason"] == "lease expired" and key not in self._judged:
                self._judged.add(key)
                if attempt["worker"] not in self._world.disturbed:
                    raise Violation(f"{attempt['worker']} lost {key} though it was well")

    def _check_change(self, before: Row, now: Row, attempts: list[Row]) -> None:
        digest, was = now["digest"], TrialState(before["state"])
        is_new = now["attempt"] > before["attempt"]
        if was is TrialState.COMPLETED and before != now:
            raise Violation(f"{digest} was completed and changed: {now}")
        if was.is_final and not self._world.by_user and before != now:
            raise Violation(f"{digest} was {was} and became {now['state']} though nobody asked")
        if digest in self._world.cancelled and is_new:
            raise Violation(f"{digest} was cancelled by its user and got another attempt")
        if digest in self._world.cancelled and was is TrialState.CANCELLED != now["state"]:
            raise Violation(f"{digest} was cancelled by its user and is {now['state']}")
        if was.is_final and now["state"] == was and before["finished_at"] != now["finished_at"]:
            raise Violation(f"the end of {digest} moved")
        for budget in ("failures", "preemptions"):
            more = now[budget] - before[budget]
            if more > 1 or (more < 0 and not (self._world.by_user and now[budget] == 0)):
                raise Violation(f"{digest}: {budget} went from {before[budget]} to {now[budget]}")
        if now["failures"] > before["failures"]:
            ended = attempts[before["attempt"] - 1]["state"]
            if ended not in (AttemptState.LOST, AttemptState.FAILED):
                raise Violation(f"{digest} paid a retry for an attempt that is {ended}")

    def check_end(self) -> None:
        """Raises: Violation: a trial was lost, or its records or verdicts are not complete"""
        store = self._world.store
        for sweep in store.sweeps():
            if sweep.state not in (SweepState.FINISHED, SweepState.CANCELLED):
                raise Violation(f"{sweep.sweep_id} is {sweep.state} and does not end")
        for digest in ("t0", "t1", "t2"):
            trial, attempts = store.trial(digest), store.attempts(digest)
            if not trial.state.is_final:
                raise Violation(f"{digest} is {trial.state} at the end")
            if trial.state is not TrialState.COMPLETED:
                continue
            done = [a.number for a in attempts if a.state is AttemptState.DONE and a.kind == "eval"]
            if len(done) != 1:
                raise Violation(f"{digest} was completed by attempts {done}")
            path = self._world.settings.trial_dir(digest) / "records.json"
            if json.loads(path.read_text()) != list(range(1, STEPS + 1)):
                raise Violation(f"{digest} has records of the steps {path.read_text()}")
