"""Trains trials: QUEUED ones become TRAINED, or go on later from their checkpoint."""

from __future__ import annotations

from typing import ClassVar

from pipeline.records import WorkKind
from pipeline.settings import Settings
from workers.actors.actor import Actor, Assignment, SinkFactory, Verdict
from workers.training.loop import train
from workers.training.step import Watch


class TrainActor(Actor):
    kind: ClassVar[WorkKind] = WorkKind.TRAIN

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        watch: Watch | None = None,
        *,
        heeds_sigterm: bool = False,
    ) -> None:
        super().__init__(name, settings, sink_factory, heeds_sigterm=heeds_sigterm)
        self._watch = watch

    def compute(self, assignment: Assignment) -> Verdict:
        outcome = train(
            assignment.spec,
            settings=self._settings,
            digest=assignment.claim.digest,
            sink=assignment.sink,
            report=assignment.heartbeat.report,
            run=assignment.run,
            watch=self._watch,
        )
        return Verdict(outcome.state, outcome.result, outcome.checkpoint_uri)
