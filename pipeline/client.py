"""Reads and submits sweeps, trials and expert loads from notebooks and scripts.

    from evenload.pipeline.client import Client

    client = Client()                          # uses EVENLOAD_* variables, or ./.evenload
    client = Client(home="runs", database_url="postgresql+psycopg://...")
    client.trials_frame("step-sizes-1a2b3c")   # a pandas DataFrame with one row per trial

Shape suffixes: S steps, L expert layers, E experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures.evaluation import GroupScores, LossByK, Routes
from evenload.pipeline.figures.loads import History
from evenload.pipeline.figures.metrics import of_trials
from evenload.pipeline.records import evaluation_arrays
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.shards import read_eval_counts, read_history, read_scalars
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.states import SweepRecord, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import answer
from evenload.pipeline.sweep.extension import extension
from evenload.pipeline.sweep.recommend import Recommendation
from evenload.pipeline.sweep.removal import remove_sweep

if TYPE_CHECKING:
    import pandas as pd


class Client:
    """Reads the store and the shards.

    Only `submit`, `extend`, `delete` and the verbs of `store` write. The verbs (pause, resume,
    stop, cancel and retry_failed) take a sweep, or a sweep and one of its trials.

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

    def recommendation(self, sweep_id: str) -> Recommendation:
        """The recommended setting with its evidence."""
        return answer(self.store, sweep_id)

    def loads(self, digest: str, first: int = 1, last: int | None = None) -> History:
        """Loads `count_SLE` and biases `bias_SLE` of the steps `first` to `last`, both included."""
        return read_history(self._folder(digest), first=first, last=last)

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

    def trials_frame(self, sweep_id: str) -> pd.DataFrame:
        """One row per trial: digest, label, state, experts, seed and figures.  Needs pandas."""
        import pandas as pd

        frame = pd.DataFrame([_row(trial) for trial in self.trials(sweep_id)])
        frame.attrs = {
            metric.name: {"title": metric.title, "unit": metric.unit, "better": metric.better}
            for metric in of_trials()
        }
        return frame

    def steps_frame(self, digest: str) -> pd.DataFrame:
        """One row per step: loss, gradient norm, learning rate, tokens, ....  Needs pandas."""
        import pandas as pd

        return pd.DataFrame(read_scalars(self._folder(digest))).astype({"step": int})

    def _folder(self, digest: str) -> Path:
        return readable_dir(self.settings, self.store.trial(digest).digest)


def _row(trial: TrialRecord) -> dict[str, Any]:
    return {
        "digest": trial.digest,
        "label": trial.label,
        "state": trial.state.value,
        "num_experts": trial.spec["model"]["num_experts"],
        "seed": trial.spec["train"]["seed"],
        **{metric.name: trial.figure(metric.name) for metric in of_trials()},
        **trial.result,
    }
