"""`evenload sweep compare`: sets two sweeps side by side."""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import NONE, counted
from evenload.pipeline.sweep.answer_text import sentences
from evenload.pipeline.sweep.compare import Comparison, Difference
from evenload.pipeline.sweep.compare import compare as compare_sweeps
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS
from evenload.pipeline.sweep.statistics import Interval
from evenload.workers.cli.session import AsJson, load_settings, open_store, out, print_json
from evenload.workers.cli.verbs import Home


def compare(
    first: Annotated[str, typer.Argument(help="id from `evenload sweep list`")],
    second: Annotated[str, typer.Argument(help="id of the sweep that it is compared with")],
    as_json: AsJson = False,
    home: Home = None,
) -> None:
    """Set two sweeps side by side: what they have in common, with intervals, and both answers."""
    found = compare_sweeps(open_store(load_settings(home)), first, second)
    if as_json:
        answers = {one.sweep_id: sentences(one) for one in (found.first, found.second)}
        print_json({"answers": answers, **found._asdict()})
        return
    for part in _parts(found):
        out.print(part, soft_wrap=isinstance(part, str | Text))


def _parts(found: Comparison) -> Iterator[RenderableType]:
    first, second = found.first.sweep_id, found.second.sweep_id
    yield f"Differences are those of B = {second} minus A = {first}.\n"
    for place, group in groupby(found.common, key=lambda one: one.place):
        differences = list(group)
        yield _table(place, differences)
        yield Text(f"{_note(differences)}\n", "dim")
    differing = [f"{key} is {a} in A, {b} in B" for key, (a, b) in found.differing.items()]
    yield from _lines("All trials differ", differing)
    yield from _lines("The same trials in both", found.repeated)
    yield from _lines("Not compared", [f"{name}: {why}" for name, why in found.left_out.items()])
    yield from _lines("Only in A", found.only_first)
    yield from _lines("Only in B", found.only_second)
    for name, answer in (("A", found.first), ("B", found.second)):
        for text in sentences(answer):
            yield Text(f"{name}: {text}", "bold")


def _lines(title: str, names: list[str] | tuple[str, ...]) -> Iterator[str]:
    if names:
        yield f"{title}: {'; '.join(names)}.\n"


def _table(place: str, differences: list[Difference]) -> Table:
    table = Table(title=place, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("setting")
    loss, vio = METRICS[LOSS].head, METRICS[IMBALANCE].head
    for title in (f"{loss} A", "B", "difference", f"{vio} A", "B", "over floor, B / A"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    for one in differences:
        table.add_row(
            one.label,
            METRICS[LOSS].shown(one.first.mean_loss),
            METRICS[LOSS].shown(one.second.mean_loss),
            format(one.loss, "+.3f"),
            METRICS[IMBALANCE].shown(one.first.max_vio),
            METRICS[IMBALANCE].shown(one.second.max_vio),
            _ratio(one.log_over_floor),
            f"{_verdict(one.loss, 'less loss')}, {_verdict(one.log_over_floor, 'more even')}",
        )
    return table


def _note(differences: list[Difference]) -> str:
    """Over which seeds the intervals are."""
    count, settings = differences[0].loss.seeds, counted(len(differences), "setting")
    if differences[0].loss.half is None:
        return "No intervals: they need two seeds that all of these settings have in each sweep."
    text = f"Intervals of the {settings} hold together with 95 %, each figure by itself"
    if differences[0].is_paired:
        return f"{text}; paired by the {counted(count, 'seed')} that both sweeps have."
    return (
        f"{text}. The sweeps do not share two seeds, so they are not paired, and intervals are "
        f"wider: at least {counted(count, 'seed')} in each."
    )


def _verdict(found: Interval, words: str) -> str:
    """Which sweep has the lower figure, if that is shown."""
    if found.low is None or found.high is None:
        return NONE
    if found.low <= 0 <= found.high:
        return "tie"
    return f"{words} in {'B' if found.high < 0 else 'A'}"


def _ratio(found: Interval) -> str:
    ends = (found.low, found.high)
    span = "".join(f" to {math.exp(end):.2f}" for end in ends if end is not None)
    return f"{math.exp(found.mean):.2f}" + (f" ({span[4:]})" if span else "")
