"""`evenload train`: trains one trial in this process with the same actors as in sweeps."""

from pathlib import Path
from typing import Annotated

import typer

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import WORKERS, require
from evenload.pipeline.spec.trial import TrialSpec, load_trial
from evenload.workers.cli.session import NewVersion, load_settings
from evenload.workers.cli.sweep import finish


def train(
    trial_file: Annotated[Path, typer.Argument(help="YAML file of a trial")],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document")] = False,
    record_scores: Annotated[
        Path | None,
        typer.Option(help="file for the scores of the routers, for `simulate` and `advise`"),
    ] = None,
    new_version: NewVersion = False,
    home: Annotated[Path | None, typer.Option(help="folder with store and shards")] = None,
) -> None:
    """Train one trial in this process, score it on held-out text and print its figures.

    The trial is stored like a sweep, so that the dashboard and MLflow show it. A second call
    resumes from its checkpoint. A finished trial is not trained again, except to record scores.
    """
    require(*WORKERS)
    settings = load_settings(home)
    asked = load_trial(trial_file)
    if record_scores is not None:
        _check_recordable(asked)
        _check_writable(record_scores)
    from evenload.workers.cli.trial_runner import run_trial  # with torch, Ray and MLflow

    sweep_id = run_trial(asked, trial_file.stem, settings, record_scores, new_version)
    finish(settings, sweep_id, as_json)


def _check_recordable(trial: TrialSpec) -> None:
    """Raises: SpecError"""
    if trial.runtime.workers > 1:
        raise SpecError(
            f"--record-scores needs a single process, but runtime.workers={trial.runtime.workers}; "
            "set it to 1"
        )
    if trial.extends is not None:
        raise SpecError(
            f"--record-scores needs a trial from its first step, but this one extends "
            f"{trial.extends}; remove extends"
        )


def _check_writable(path: Path) -> None:
    """Checks the file before training instead of after hours.  Raises: SpecError"""
    is_new = not path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
        if is_new:
            path.unlink()  # an empty one would look like a recording
    except OSError as error:
        raise SpecError(
            f"--record-scores {path}: {error.strerror}; give a file that can be written"
        ) from None
