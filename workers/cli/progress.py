"""Progress bars for trials, sweeps and simulations."""

from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from evenload.pipeline.states import TrialRecord, TrialState


def progress_bars(console: Console, *columns: ProgressColumn, **options: Any) -> Progress:
    """Bars with a description, a field `note`, and the time spent and left."""
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=30),
        *columns,
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        **options,
    )


class SweepProgress:
    """Shows finished trials, tokens, tokens per second of all workers, and the time left."""

    def __init__(self, console: Console) -> None:
        self._bars = progress_bars(console)
        self._sweep = self._bars.add_task("sweep", total=None, note="starting workers")
        self._running: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, trials: Sequence[TrialRecord]) -> None:
        """Draws the state of the sweep."""
        done = sum(trial.state.is_final for trial in trials)
        tokens = sum(_tokens(trial) for trial in trials)
        speed = sum(
            trial.progress.tokens_per_second
            for trial in trials
            if trial.state is TrialState.TRAINING and trial.progress is not None
        )
        note = f"{done}/{len(trials)} trials  {tokens / 1e6:.2f}M tokens  {speed:,.0f} tokens/s"
        # Computed each time, because a sweep may grow and stopped trials need no more tokens.
        total = sum(_all_tokens(trial) for trial in trials)
        self._bars.update(self._sweep, completed=tokens, total=total, note=note)
        for trial in trials:
            self._show_running(trial)

    def _show_running(self, trial: TrialRecord) -> None:
        if not trial.state.is_held:
            task = self._running.pop(trial.digest, None)
            if task is not None:
                self._bars.remove_task(task)
            return
        if trial.digest not in self._running:
            name = f"{trial.label}, {trial.spec['model']['num_experts']} experts"
            self._running[trial.digest] = self._bars.add_task(name, total=None, note="")
        self._bars.update(
            self._running[trial.digest],
            completed=trial.progress.step if trial.progress else 0,
            total=trial.spec["train"]["steps"],
            note=_note(trial),
        )


def _tokens(trial: TrialRecord) -> int:
    trained = (TrialState.TRAINED, TrialState.EVALUATING, TrialState.COMPLETED)
    if trial.state in trained:
        train = trial.spec["train"]
        return int(train["steps"] * train["batch_sequences"] * train["seq_len"])
    return trial.progress.tokens if trial.progress else 0


def _all_tokens(trial: TrialRecord) -> int:
    """Tokens that the trial will have at its end."""
    if trial.state.is_final:
        return _tokens(trial)
    train = trial.spec["train"]
    return int(train["steps"] * train["batch_sequences"] * train["seq_len"])


def _note(trial: TrialRecord) -> str:
    if trial.state is TrialState.EVALUATING:
        return "evaluating"
    if trial.progress is None or trial.progress.step == 0:
        return "starting"
    return f"loss {trial.progress.loss:.3f}  MaxVio {trial.progress.max_vio:.2f}"


class StepProgress:
    """Shows the steps of a trial that trains in this process."""

    def __init__(self, console: Console, steps: int) -> None:
        self._bar = progress_bars(console, MofNCompleteColumn())
        self._task = self._bar.add_task("train", total=steps, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, step: int, note: str) -> None:
        self._bar.update(self._task, completed=step, note=note)
