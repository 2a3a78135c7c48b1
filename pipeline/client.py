"""Reads and submits sweeps, trials and expert loads from notebooks and scripts.

    from evenload.pipeline.client import Client

    client = Client()                          # uses EVENLOAD_* variables, or ./.evenload
    client = Client(home="runs", database_url="postgresql+psycopg://...")
    client.trials_frame("step-sizes-1a2b3c")   # a pandas DataFrame with one row per trial

Shape suffixes: S steps, L expert layers, E experts.
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.evaluation import GroupScores, LossByK, Routes
from evenload.pipeline.figures.loads import History
from evenload.pipeline.figures.metrics import of_trials
from evenload.pipeline.records import evaluation_arrays
from evenload.pipeline.records.lost_records import lost_records
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.recorded_runs import RecordedRun, recorded_run, recorded_runs
from evenload.pipeline.records.shards import read_eval_counts, read_history, read_scalars
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.states import SweepRecord, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import Answer, answer, readable_spec
from evenload.pipeline.sweep.audit import Finding, audit, read_facts
from evenload.pipeline.sweep.axes import ABSENT, EXPERTS, Axes, axes_of, seed_of, value_of
from evenload.pipeline.sweep.compare import Comparison, compare
from evenload.pipeline.sweep.extension import extension
from evenload.pipeline.sweep.removal import remove_sweep

if TYPE_CHECKING:
    import pandas as pd


class Client:
    """Reads the store and the shards.

    Only `submit`, `add_seeds`, `extend`, `delete` and the verbs of `store` write. The verbs
    (pause, resume, stop, cancel and retry_failed) take a sweep, or a sweep and one of its trials.

    Args:     home: the folder with the shards
              database_url: the store, see `pipeline.settings`
    Raises:   SpecError: an id is unknown or there is no store
              StoreUnavailable: the database does not answer
    """

    def __init__(self, home: Path | str | None = None, database_url: str | None = None) -> None:
        given = {"home": home, "database_url": database_url}
        self.settings = Settings.model_validate(
            Settings().model_dump() | {key: value for key, value in given.items() if value}
        )
        self.store = SweepStore(self.settings.store_url)

    def submit(self, sweep: SweepSpec | Path | str) -> str:
        """Submits a sweep, or that in a YAML file, for `evenload serve` to run; returns its id."""
        spec = sweep if isinstance(sweep, SweepSpec) else load_sweep(Path(sweep))
        return self.store.submit(spec)

    def add_seeds(self, sweep_id: str, seeds: int, top: int | None = None) -> None:
        """Lets `evenload serve` train settings of a finished sweep with more seeds.

        Args:     top: only so many of the best settings of each answer; None: all
        Raises:   SpecError: the sweep is not finished
        """
        self.store.add_seeds(sweep_id, seeds, top)

    def extend(self, sweep_id: str, steps: int, digest: str | None = None) -> str:
        """Submits a sweep that trains the completed trials, or only one, up to `steps` steps.

        Returns:  the id of the new sweep
        Raises:   SpecError: no trial is completed, or one has as many steps already
        """
        trials = self.store.trials(sweep_id)
        return self.store.submit(extension(self.store.sweep(sweep_id).name, trials, steps, digest))

    def sweeps(self) -> list[SweepRecord]:
        """All sweeps, newest first."""
        return self.store.sweeps()

    def delete(self, sweep_id: str) -> list[str]:
        """Removes a sweep with its files and runs; returns the digests of the removed trials.

        Raises:   SpecError: the sweep is neither over nor paused
        """
        return remove_sweep(self.store, self.settings, sweep_id)

    def trials(self, sweep_id: str) -> list[TrialRecord]:
        """The trials of a sweep, in its order."""
        return self.store.trials(sweep_id)

    def answer(self, sweep_id: str) -> Answer:
        """The answer with its evidence; `answer_text.sentence` puts it into words."""
        return answer(self.store, sweep_id)

    def compare(self, first: str, second: str) -> Comparison:
        """The settings that two sweeps have in common, with their differences, and both answers.

        Raises:   SpecError: they have no setting in common, or their losses cannot be compared
        """
        return compare(self.store, first, second)

    def audit(self, sweep_id: str) -> list[Finding]:
        """Reasons to distrust the answer, with evidence and remedies; data is not read again."""
        return audit(read_facts(self.settings, self.answer(sweep_id), self.trials(sweep_id)))

    def loads(self, digest: str, first: int = 1, last: int | None = None) -> History:
        """Loads `count_SLE` and biases `bias_SLE` of the steps `first` to `last`, both included.

        A warning names what is damaged or missing.

        Raises:   SpecError: nothing of what was recorded can be read
        """
        folder = self._folder(digest)
        found = read_history(folder, first=first, last=last)
        self._warn_of_losses(digest, folder, len(found.step_S))
        return found

    def recorded_runs(self) -> list[RecordedRun]:
        """Attached models and imported records of this home, newest first."""
        return recorded_runs(self.settings.root)

    def recorded_run(self, name: str) -> RecordedRun:
        """A recorded run, by its id or its name.  Raises: SpecError: unknown"""
        return recorded_run(self.settings.root, name)

    def expert_load(self, name: str, first: int = 1, last: int | None = None) -> History:
        """As `loads`, of a recorded run, by its id or its name.  Raises: SpecError: unknown"""
        return read_history(self.recorded_run(name).folder, first=first, last=last)

    def eval_loads(self, digest: str) -> NDArray[np.int64] | None:
        """Loads (L, E) over the whole evaluation set; None before the evaluation."""
        return read_eval_counts(self._folder(digest))

    def eval_groups(self, digest: str) -> GroupScores | None:
        """Held-out loss and loads by group of documents; None before the evaluation."""
        return evaluation_arrays.read_groups(self._folder(digest))

    def eval_by_k(self, digest: str) -> LossByK | None:
        """Held-out loss with fewer and more experts per token; None before the evaluation."""
        return evaluation_arrays.read_by_k(self._folder(digest))

    def eval_routes(self, digest: str) -> Routes | None:
        """Which experts tokens choose together and in succession; None before the evaluation."""
        return evaluation_arrays.read_routes(self._folder(digest))

    def trials_frame(self, sweep_id: str) -> "pd.DataFrame":
        """One row per trial: digest, rule, every axis of the sweep, figures.  Needs pandas."""
        import pandas as pd

        trials = self.trials(sweep_id)
        axes = axes_of(trials, readable_spec(self.store, sweep_id))
        frame = pd.DataFrame([_row(trial, axes) for trial in trials])
        frame.attrs = {
            metric.name: {"title": metric.title, "unit": metric.unit, "better": metric.better}
            for metric in of_trials()
        }
        return frame

    def steps_frame(self, digest: str) -> "pd.DataFrame":
        """One row per step: loss, gradient norm, learning rate, tokens, ....  Needs pandas."""
        import pandas as pd

        folder = self._folder(digest)
        scalars = read_scalars(folder)
        self._warn_of_losses(digest, folder, len(scalars["step"]))
        return pd.DataFrame(scalars).astype({"step": int})

    def _warn_of_losses(self, digest: str, folder: Path, found: int) -> None:
        """Raises: SpecError: there should be records, and none was found"""
        if lost := lost_records(folder, self.store.trial(digest)):
            if not found:
                raise SpecError(f"trial {digest}: {lost}")
            warnings.warn(f"trial {digest}: {lost}", stacklevel=3)

    def _folder(self, digest: str) -> Path:
        return readable_dir(self.settings, self.store.trial(digest).digest)


def _known(value: Any) -> Any:
    return None if value == ABSENT else value


def _row(trial: TrialRecord, axes: Axes) -> dict[str, Any]:
    return {
        "digest": trial.digest,
        "label": trial.label,
        "setting": axes.setting(trial),
        "state": trial.state.value,
        "num_experts": value_of(trial.spec, EXPERTS),
        "seed": seed_of(trial),
        **{key: _known(value_of(trial.spec, key)) for key in (*axes.per, *axes.chosen)},
        **{metric.name: trial.figure(metric.name) for metric in of_trials()},
        **trial.result,
    }
