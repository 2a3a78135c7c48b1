"""Prints the answer of a sweep on the terminal: the sentences and the tables of its evidence."""

import re
from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import number
from evenload.pipeline.states import Stage
from evenload.pipeline.sweep.answer import Answer, Stopped
from evenload.pipeline.sweep.answer_text import method, place_note, sentences
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Verdict
from evenload.pipeline.sweep.targets import TargetRow

MAX_STOPPED = 12  # number of stopped trials to list
MORE = ("max_vio_floor", "idle_frac")  # in addition to the two figures that are compared


def answer_parts(answer: Answer) -> Iterator[RenderableType]:
    """The parts to print, in order: evidence first, the answer last."""
    places = [place for place in answer.places if place.settings]
    for place in places:
        yield _settings_table(answer, place)
        yield Text(place_note(place), style="dim")
    if places:
        yield Text(f"\n{method(answer)}", style="dim")
    if answer.targets:
        yield _target_table(answer.targets)
    if answer.stopped:
        yield _stopped_lines(answer.stopped)
    for sentence in sentences(answer):
        yield Text(f"\n{sentence}", style="bold")


def _settings_table(answer: Answer, place: PlaceAnswer) -> Table:
    stage = "confirm" if answer.stage is Stage.CONFIRM else "tune"
    table = Table(
        title=f"{place.place}, {stage} stage", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1)
    )
    table.add_column("setting", no_wrap=True)
    loss, vio, *more = (METRICS[name].head for name in (LOSS, IMBALANCE, *MORE))
    for title in ("seeds", loss, "above the best", "against none", vio, "over floor", *more):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for setting in place.settings:
        table.add_row(
            re.sub(r" (?=\S+=)", "\n", setting.label),
            str(setting.seeds),
            setting.shown(LOSS),
            number(setting.above_best),
            number(setting.against_none, "+.3f"),
            setting.shown(IMBALANCE),
            number(setting.over_floor, ".1f"),
            *(setting.shown(name) for name in MORE),
            setting.verdict.value,
            style="bold" if setting.verdict is Verdict.NAMED else None,
        )
    return table


def _target_table(rows: Sequence[TargetRow]) -> Table:
    table = Table(
        title="to a target held-out loss (nats per token, on the learning curve's sample)",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for title in ("setting", "place"):
        table.add_column(title, no_wrap=True)
    for title in ("target", "reached", "tokens", "seconds", "loss at the end"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.label,
            row.place,
            f"{row.target_loss:.4f}",
            f"{row.reached} of {row.trials}",
            "not reached" if row.tokens is None else f"{row.tokens / 1e6:.3f}M",
            "not reached" if row.seconds is None else f"{row.seconds:.1f}",
            format(row.final_loss, ".4f"),
        )
    return table


def _stopped_lines(stopped: Sequence[Stopped]) -> Text:
    saved = sum(trial.steps - trial.step for trial in stopped)
    text = Text(f"Stopped early, saving {saved:,} steps:\n")
    for trial in stopped[:MAX_STOPPED]:
        text.append(f"  {trial.name}, step {trial.step} of {trial.steps}: {trial.reason}\n")
    if len(stopped) > MAX_STOPPED:
        text.append(f"  and {len(stopped) - MAX_STOPPED} more; `status --json` has all\n")
    return text
