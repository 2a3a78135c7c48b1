"""Trains trials: QUEUED ones become TRAINED, or go on later from their checkpoint."""

from __future__ import annotations

from typing import ClassVar

import torch

from pipeline.records import Claim, WorkKind
from pipeline.settings import Settings
from pipeline.spec import TrialSpec
from pipeline.tracking.mirror import fetch
from workers.actors.actor import Actor, Assignment, SinkFactory, Verdict
from workers.actors.device_memory import check_memory
from workers.actors.energy import EnergyMeter
from workers.training.inheritance import inherit
from workers.training.loop import train
from workers.training.ranks import ALONE, Ranks
from workers.training.step import Watch


class TrainActor(Actor):
    """Args: ranks: where it works, the first of them; as many as its trials have workers"""

    kind: ClassVar[WorkKind] = WorkKind.TRAIN

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        watch: Watch | None = None,
        *,
        heeds_sigterm: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(name, settings, sink_factory, heeds_sigterm=heeds_sigterm)
        self._watch = watch
        self._ranks = ranks

    def prepare(self, claim: Claim, spec: TrialSpec) -> None:
        if spec.extends is not None:
            fetch(self._settings, spec.extends)
            inherit(self._settings, claim.digest, spec.extends)

    def compute(self, assignment: Assignment) -> Verdict:
        spec, run = assignment.spec, assignment.run
        check_memory(spec)
        self._ranks.meet()
        energy = EnergyMeter(torch.device(spec.runtime.device))
        outcome = train(
            spec,
            settings=self._settings,
            digest=assignment.claim.digest,
            sink=assignment.sink,
            report=assignment.heartbeat.report,
            run=run,
            watch=self._watch,
            ranks=self._ranks,
            observe=assignment.heartbeat.observe,
        )
        if outcome.result:
            outcome.result.update(energy.per_step(spec.train.steps - run.resumed_from_step))
        return Verdict(outcome.state, outcome.result, outcome.checkpoint_uri)
