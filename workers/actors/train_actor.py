"""The actor that trains QUEUED trials, which become TRAINED or resume later from a checkpoint."""

from typing import ClassVar

import torch

from evenload.pipeline.records.fence import Fence
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Claim, WorkKind
from evenload.workers.actors.actor import Actor, Assignment, SinkFactory, Verdict
from evenload.workers.actors.device_memory import check_memory
from evenload.workers.actors.energy import EnergyMeter
from evenload.workers.training.checkpoint import set_damaged_aside
from evenload.workers.training.inheritance import inherit
from evenload.workers.training.loop import checkpoint_dir, train
from evenload.workers.training.ranks import ALONE, Ranks
from evenload.workers.training.step import Watch


class TrainActor(Actor):
    """Args: ranks: the group whose first rank this is; its size is the number of workers"""

    kind: ClassVar[WorkKind] = WorkKind.TRAIN

    def __init__(
        self,
        name: str,
        settings: Settings,
        sink_factory: SinkFactory,
        watch: Watch | None = None,
        *,
        handles_sigterm: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(name, settings, sink_factory, handles_sigterm=handles_sigterm)
        self._watch = watch
        self._ranks = ranks

    def prepare(self, claim: Claim, spec: TrialSpec, fence: Fence) -> None:
        set_damaged_aside(checkpoint_dir(self._settings, claim.digest))
        if spec.extends is not None:
            self._fetch(spec.extends)
            inherit(self._settings, claim.digest, spec.extends, fence)

    def compute(self, assignment: Assignment) -> Verdict:
        spec, run = assignment.spec, assignment.run
        check_memory(spec)
        self._ranks.barrier()
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
            on_curve_point=assignment.heartbeat.add_curve_point,
        )
        if outcome.result:
            outcome.result.update(energy.per_step(spec.train.steps - run.resumed_from_step))
        return Verdict(outcome.state, outcome.result, outcome.checkpoint_uri)
