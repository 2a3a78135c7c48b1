"""The actor that scores the checkpoints of TRAINED trials, which then become COMPLETED."""

from typing import ClassVar

from evenload.pipeline.states import TrialState, WorkKind
from evenload.workers.actors.actor import Actor, Assignment, Verdict
from evenload.workers.training.evaluate import evaluate


class EvalActor(Actor):
    kind: ClassVar[WorkKind] = WorkKind.EVAL

    def compute(self, assignment: Assignment) -> Verdict:
        claim = assignment.claim
        assert claim.checkpoint_uri is not None, claim.digest
        result = evaluate(
            assignment.spec,
            settings=self._settings,
            digest=claim.digest,
            checkpoint_uri=claim.checkpoint_uri,
            sink=assignment.sink,
            run=assignment.run,
        )
        return Verdict(TrialState.COMPLETED, result)
