"""Removes a sweep with its files, mirrored files, MLflow runs and rows."""

import shutil

from evenload.pipeline.extras import require
from evenload.pipeline.records.mirror import Mirror
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore


def remove_sweep(store: SweepStore, settings: Settings, sweep_id: str) -> list[str]:
    """Removes a sweep and the trials that no other sweep lists; returns their digests.

    Rows are removed last, so that an interrupted removal can be repeated. Corpora are kept, because
    sweeps share them.

    Raises:   SpecError: the sweep still runs, see `SweepStore.delete`
              OSError, MlflowException: the object store or MLflow does not answer; only files are
              removed so far
    """
    digests = store.deletable(sweep_id)
    found = [store.sweep(sweep_id).parent_run_id, *(store.trial(each).run_id for each in digests)]
    runs = [run for run in found if run is not None]
    if runs:
        require("mlflow")  # before anything is gone
    for digest in digests:
        shutil.rmtree(settings.trial_dir(digest), ignore_errors=True)
        shutil.rmtree(settings.root / "mirrored" / digest, ignore_errors=True)
        if settings.mirror_url is not None:
            Mirror(settings.mirror_url).delete(digest)
    if runs:
        from evenload.pipeline.records.mlflow_runs import remove_runs

        remove_runs(settings, runs)
    return store.delete(sweep_id)
