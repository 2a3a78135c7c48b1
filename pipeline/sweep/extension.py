"""Extends sweeps: by more seeds in the same sweep, or by more steps in a new one."""

from __future__ import annotations

from collections.abc import Sequence

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import SweepSpec, unique
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import stage_of
from evenload.pipeline.sweep.search import propose


def fresh_seeds(spec: SweepSpec) -> range:
    """The seeds of all extensions of the sweep: those that follow its planned ones."""
    if not spec.extended:
        return range(0)
    planned = {trial.train.seed for trial in propose(spec)}
    first = 1 + max(planned | set(spec.confirm.seeds if spec.confirm is not None else ()))
    return range(first, first + sum(spec.extended))


def seed_trials(spec: SweepSpec, rows: Sequence[TrialRecord]) -> tuple[Stage, list[TrialSpec]]:
    """The trials of all extensions by seeds, seed by seed: every completed one with fresh seeds.

    The confirm stage is extended if there is one, and otherwise the search.
    """
    stage = Stage.CONFIRM if any(stage_of(row) is Stage.CONFIRM for row in rows) else Stage.TUNE
    if not spec.extended:
        return stage, []
    done = [
        TrialSpec.model_validate(row.spec).model_copy(update={"extends": None})
        for row in rows
        if stage_of(row) is stage and row.state is TrialState.COMPLETED
    ]
    return stage, unique(
        trial.model_copy(update={"train": trial.train.model_copy(update={"seed": seed})})
        for seed in fresh_seeds(spec)
        for trial in done
    )


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
