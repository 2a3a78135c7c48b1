"""Extends sweeps: by more seeds in the same sweep, or by more steps in a new one."""

from collections.abc import Sequence
from itertools import accumulate

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import ConfirmSpec, Extension, SweepSpec, unique, with_seed
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Stage, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import stage_of
from evenload.pipeline.sweep.confirm import confirm_trials
from evenload.pipeline.sweep.racing import remaining_rows
from evenload.pipeline.sweep.search import propose


def extensions(spec: SweepSpec) -> list[tuple[Extension, range]]:
    """The extensions by seeds with their seeds, which follow the planned ones."""
    if not spec.extended:
        return []
    planned = spec.tune_seeds(propose(spec))
    start = 1 + max(planned | set(spec.confirm.seeds if spec.confirm is not None else ()))
    ends = list(accumulate((one.seeds for one in spec.extended), initial=start))
    return [(one, range(*ends[at : at + 2])) for at, one in enumerate(spec.extended)]


def seed_trials(
    spec: SweepSpec, extension: Extension, seeds: range, rows: Sequence[TrialRecord]
) -> tuple[Stage, list[TrialSpec]]:
    """The stage and the trials of one extension, seed by seed.

    The confirm stage is extended if there is one, and otherwise the search; `top` starts the
    confirm stage.

    Args:     rows: the trials of the sweep before this extension
    """
    if extension.top is not None:
        confirm = ConfirmSpec(top=extension.top, seeds=tuple(seeds))
        return Stage.CONFIRM, confirm_trials(spec, rows, confirm)
    stage = Stage.CONFIRM if any(stage_of(row) is Stage.CONFIRM for row in rows) else Stage.TUNE
    done = [
        TrialSpec.model_validate(row.spec)
        for row in remaining_rows(spec, rows)
        if stage_of(row) is stage and row.state is TrialState.COMPLETED
    ]
    return stage, unique(with_seed(trial, seed) for seed in seeds for trial in done)


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
