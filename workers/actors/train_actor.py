"""Trains trials: QUEUED ones become TRAINED, or go on later from their checkpoint."""

from __future__ import annotations

from typing import ClassVar

from pipeline.records import WorkKind
from workers.actors.actor import Actor, Assignment, Verdict
from workers.training.loop import train


class TrainActor(Actor):
    kind: ClassVar[WorkKind] = WorkKind.TRAIN

    def compute(self, assignment: Assignment) -> Verdict:
        outcome = train(
            assignment.spec,
            settings=self._settings,
            digest=assignment.claim.digest,
            sink=assignment.sink,
            report=assignment.heartbeat.report,
            run=assignment.run,
        )
        return Verdict(outcome.state, outcome.result, outcome.checkpoint_uri)
