"""Prints the answer of a sweep on the terminal: the sentence and the tables of its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import NONE
from evenload.pipeline.states import Stage
from evenload.pipeline.sweep.recommend import Recommendation, Stopped
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Comparison, Setting
from evenload.pipeline.sweep.targets import TargetRow
from evenload.pipeline.sweep.transfer import Transfer

MAX_STOPPED = 12  # number of stopped trials to list
MORE = ("max_vio_floor", "idle_frac")  # in addition to the two figures that rank settings
LEGEND = (
    "±: half of the 95 % interval over seeds (Student's t); against none: difference, paired by "
    "seed; p: p-value of equal losses; front: no setting has less loss and less imbalance."
)


def answer_parts(answer: Recommendation) -> Iterator[RenderableType]:
    """The parts to print, in order: evidence first, the recommendation last."""
    if answer.settings and (answer.stage is Stage.CONFIRM or _has_intervals(answer.settings)):
        yield _settings_table(answer)
        yield Text(LEGEND, style="dim")
    if answer.targets:
        yield _target_table(answer.targets)
    if answer.stopped:
        yield _stopped_lines(answer.stopped)
    for transfer in answer.transfers:
        yield Text(transfer_sentence(transfer))
    yield Text(f"\n{answer.sentence}", style="bold")


def transfer_sentence(transfer: Transfer) -> str:
    """A sentence that compares the best step sizes for few and for many experts."""
    few, many = transfer.from_experts, transfer.to_experts
    text = (
        f"{transfer.kind}: the best step size at {few} experts is {transfer.best_from:g}, at "
        f"{many} experts {transfer.best_to:g}"
    )
    if transfer.probability is not None:
        text += f"; P(both have the same) = {transfer.probability:.2f}"
    if not transfer.transfers:
        price = format(transfer.price, "+.4f")
        text += f"; at {many} experts {transfer.best_from:g} costs {price} bits per byte"
    seeds = "one seed" if transfer.seeds == 1 else f"{transfer.seeds} seeds"
    return f"{text} ({seeds} of the tune stage)."


def _has_intervals(settings: Sequence[Setting]) -> bool:
    return any(setting.loss.half is not None for setting in settings)


def _settings_table(answer: Recommendation) -> Table:
    against = {comparison.label: comparison for comparison in answer.comparisons}
    stage = "confirm" if answer.stage is Stage.CONFIRM else "tune"
    table = Table(title=f"settings, {stage} stage", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("setting", no_wrap=True)
    heads = [METRICS[name].head for name in (LOSS, IMBALANCE, *MORE)]
    for title in ("trials", heads[0], "against none", "p", *heads[1:], "front"):
        table.add_column(title, justify="right")
    for setting in answer.settings:
        is_best = answer.best is not None and setting.label == answer.best.label
        table.add_row(
            setting.label,
            str(setting.trials),
            setting.shown(LOSS),
            *_against_cells(against.get(setting.label)),
            *(setting.shown(name) for name in (IMBALANCE, *MORE)),
            "yes" if setting.on_front else "",
            style="bold" if is_best else None,
        )
    return table


def _against_cells(comparison: Comparison | None) -> tuple[str, str]:
    if comparison is None:
        return NONE, NONE
    p = comparison.p_value
    return format(comparison.loss, "+.3f"), NONE if p is None else f"{p:.2g}"


def _target_table(rows: Sequence[TargetRow]) -> Table:
    table = Table(
        title="to a target held-out loss (nats per token, on the learning curve's sample)",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("setting", no_wrap=True)
    for title in ("experts", "target", "reached", "tokens", "seconds", "loss at the end"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.label,
            str(row.num_experts),
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
        text.append(f"  {trial.label}, {trial.num_experts} experts, seed {trial.seed}, step ")
        text.append(f"{trial.step} of {trial.steps}: {trial.reason}\n")
    if len(stopped) > MAX_STOPPED:
        text.append(f"  and {len(stopped) - MAX_STOPPED} more; `status --json` has all\n")
    return text
