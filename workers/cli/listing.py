"""Lists the trials of sweeps for a service, which must outlive whatever a sweep brings."""

from collections.abc import Callable, Sequence
from typing import Any

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.cli.session import initial_trials, short_of_disk
from evenload.workers.training.identity import basis, identify

Listed = list[tuple[str, TrialSpec]]
Ask = Callable[..., Any]  # as LimitedCalls.ask


class Listing:
    """The trials of sweeps with their digests, found in processes with limits.

    Methods return None until the trials are known, and raise what `LimitedCalls.ask` raises.

    Args:     has_cuda: whether the workers have GPUs; None: they run on this machine
    """

    def __init__(self, ask: Ask, settings: Settings, has_cuda: bool | None) -> None:
        self._ask = ask
        self._place = (settings, has_cuda)

    def first(self, sweep_id: str, stored: dict[str, Any]) -> tuple[Listed, dict[str, str]] | None:
        """The first trials of a stored sweep, and the `identity.basis` of their digests."""
        found = self._ask(sweep_id, _first, stored, *self._place)
        return found and (_parsed(found[0]), found[1])

    def further(self, sweep_id: str, trials: Sequence[TrialSpec]) -> Listed | None:
        """Trials that a sweep proposes later."""
        specs = [trial.model_dump_json() for trial in trials]
        found = self._ask(sweep_id, _further, specs, *self._place)
        return None if found is None else _parsed(found)


def _first(
    stored: dict[str, Any], settings: Settings, has_cuda: bool | None
) -> tuple[list[Any], dict[str, str]]:
    trials = initial_trials(SweepSpec.model_validate(stored), settings, has_cuda)
    if problem := short_of_disk(trials, settings):
        raise SpecError(problem)  # a full disk would end the trials of others
    return _as_json(trials), basis([trial for _, trial in trials], settings)


def _further(specs: list[str], settings: Settings, has_cuda: bool | None) -> list[Any]:
    trials = [TrialSpec.model_validate_json(spec) for spec in specs]
    return _as_json(identify(trials, settings, has_cuda))


def _as_json(trials: Listed) -> list[tuple[str, str]]:
    """Specs as JSON: the classes of rules are made at import, so they cannot be pickled."""
    return [(digest, trial.model_dump_json()) for digest, trial in trials]


def _parsed(found: list[tuple[str, str]]) -> Listed:
    return [(digest, TrialSpec.model_validate_json(spec)) for digest, spec in found]
