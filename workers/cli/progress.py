"""Progress bars for trials, sweeps and simulations."""

from collections.abc import Sequence
from typing import Any, Self

from rich import progress
from rich.console import Console

from evenload.pipeline.states import TrialRecord, TrialState


def progress_bars(
    console: Console, *columns: progress.ProgressColumn, **options: Any
) -> progress.Progress:
    """Bars with a description, a field `note`, and the time spent and left."""
    return progress.Progress(
        progress.TextColumn("{task.description}", style="bold", markup=False),
        progress.BarColumn(bar_width=30),
        *columns,
        progress.TextColumn("{task.fields[note]}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=console,
        **options,
    )


class _Shown:
    """Bars that are shown in a `with` block."""

    def __init__(self, bars: progress.Progress) -> None:
        self._bars = bars

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


class SweepProgress(_Shown):
    """Shows finished trials, tokens, tokens per second of all workers, and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(progress_bars(console))
        self._sweep = self._bars.add_task("sweep", total=None, note="starting workers")
        self._running: dict[str, progress.TaskID] = {}

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
        total = sum(_tokens(t) if t.state.is_final else t.planned_tokens for t in trials)
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
        return trial.planned_tokens
    return trial.progress.tokens if trial.progress else 0


def _note(trial: TrialRecord) -> str:
    if trial.state is TrialState.EVALUATING:
        return "evaluating"
    if trial.progress is None or trial.progress.step == 0:
        return "starting"
    return f"loss {trial.progress.loss:.3f}  MaxVio {trial.progress.max_vio:.2f}"


class StepProgress(_Shown):
    """Shows the steps of a trial that trains in this process."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(progress_bars(console, progress.MofNCompleteColumn()))
        self._task = self._bars.add_task("train", total=steps, note="")

    def show(self, step: int, note: str) -> None:
        self._bars.update(self._task, completed=step, note=note)
