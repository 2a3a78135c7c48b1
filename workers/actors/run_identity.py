"""Describes the run of a claim for the sinks that record it."""

from evenload.pipeline.records.fence import Fence
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import newest_checkpoint
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.permitted_paths import check_paths
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Claim, WorkKind
from evenload.workers.training import identity
from evenload.workers.training.hardware import device_name


def checked_corpus(spec: TrialSpec, digest: str, settings: Settings) -> str:
    """The digest of the data as this worker reads it.

    Raises:   SpecError: the data or code of this worker is not that of the trial, or the data is
              not where specs may read; then nothing of it was read or kept
    """
    check_paths(spec.data, settings.data_root, spec.model)
    corpus = identity.corpus_digest(spec.data, settings.corpus_dir)
    identity.check_identity(spec, digest, settings, corpus)
    return corpus


def run_identity(claim: Claim, spec: TrialSpec, settings: Settings, fence: Fence) -> RunIdentity:
    """Raises: SpecError: as `checked_corpus`"""
    training = claim.kind is WorkKind.TRAIN
    corpus = checked_corpus(spec, claim.digest, settings)
    return RunIdentity(
        digest=claim.digest,
        name=f"{claim.label}, {spec.model.num_experts} experts, seed {spec.train.seed}",
        sweep_id=claim.sweep_id,
        attempt=claim.attempt,
        spec=claim.spec,
        tags={
            "worker": claim.worker,
            "device": device_name(spec.runtime.device),
            "commit": identity.source_commit(),
            "core": identity.core_version_of(spec, settings),
            "corpus": corpus,
            **({"extends": spec.extends} if spec.extends else {}),
        },
        resumed_from_step=newest_checkpoint(settings.trial_dir(claim.digest)) if training else 0,
        fence=fence,
    )
