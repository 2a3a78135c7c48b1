"""Makes sweeps that train completed trials for more steps, from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialRecord, TrialState


def extension(
    name: str, trials: Sequence[TrialRecord], steps: int, digest: str | None = None
) -> SweepSpec:
    """The sweep that trains these trials, as far as they are completed, up to `steps` steps.

    Args:     digest: only this trial
    Raises:   SpecError: no trial is completed, or one has as many steps already
    """
    chosen = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETED and digest in (None, trial.digest)
    ]
    if not chosen:
        raise SpecError(f"{digest or name}: no completed trial to extend")
    longest = max(trial.spec["train"]["steps"] for trial in chosen)
    if steps <= longest:
        raise SpecError(f"steps={steps}: a trial has {longest} steps already; choose more")
    base = chosen[0].spec | {"train": chosen[0].spec["train"] | {"steps": steps}}
    digests = [trial.digest for trial in chosen]
    return SweepSpec(name=f"{name[:48]}-{steps}-steps", base=base, axes={"extends": digests})
