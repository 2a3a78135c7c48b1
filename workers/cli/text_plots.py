"""Plots for the terminal: figures against the step size, and learning curves."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.text import Text

from evenload.pipeline.figures.step_curves import FIGURES, StepCurve
from evenload.pipeline.states import CurvePoint, TrialRecord
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.step_curves import ADVISED_RULE, step_curves

WIDTH, HEIGHT = 78, 17  # in characters
MARKERS = "ox+*#%@&$?"  # one per line; further lines are left out
MARKS = ("named", "most even so far", "tied in evenness")


class TextLine(NamedTuple):
    name: str
    x_P: Sequence[float]
    y_P: Sequence[float]


def step_plots(answer: Answer, advised: Mapping[str, tuple[float, float]]) -> Iterator[Text]:
    """One plot per rule with several step sizes and figure, each with a line per place.

    Args:     advised: place -> step sizes of the sign rule that theory advises
    """
    for name, figure in FIGURES.items():
        by_rule: dict[str, list[StepCurve]] = defaultdict(list)
        for curve in step_curves(answer, name):
            by_rule[curve.rule].append(curve)
        for rule, curves in by_rule.items():
            lines = [
                TextLine(c.place, [p.step for p in c.points], [p.mean for p in c.points])
                for c in curves
            ]
            title = f"{figure.title}, by step size of {rule}"
            yield _plot(title, lines, figure.floor, (True, figure.is_log))
            yield Text("\n".join(_notes(curves, advised if rule == ADVISED_RULE else {})))


def learning_plot(
    answer: Answer, trials: Sequence[TrialRecord], curves: Mapping[str, Sequence[CurvePoint]]
) -> Text | None:
    """Held-out loss during training, a mean over the seeds of each setting; None without curves."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        for point in curves.get(trial.digest, ()):
            if math.isfinite(point.val_loss):
                found[answer.axes.both(trial)][point.step].append(point.val_loss)
    lines = [
        TextLine(name, sorted(by_step), [fmean(by_step[step]) for step in sorted(by_step)])
        for name, by_step in found.items()
    ]
    best = sorted(lines, key=lambda line: line.y_P[-1])[: len(MARKERS)]
    title = "held-out loss, nats per token, by step"
    if len(best) < len(lines):
        title += f"; the lowest {len(best)} of {len(lines)} settings"
    if not best:
        return None
    names = [f"  {marker} {line.name}" for line, marker in zip(best, MARKERS, strict=False)]
    return Text("\n").join([_plot(title, best, math.nan, (False, False)), *map(Text, names)])


def _notes(
    curves: Sequence[StepCurve], advised: Mapping[str, tuple[float, float]]
) -> Iterator[str]:
    """One line per place: what is marked, and what theory advises."""
    for curve, marker in zip(curves, MARKERS, strict=False):
        marks = [f"{p.step:g} {p.role}" for p in curve.points if p.role in MARKS]
        if span := advised.get(curve.place):
            ends = " to ".join(dict.fromkeys(f"{end:.2g}" for end in span))
            marks.append(f"theory advises {ends}")
        yield f"  {marker} {': '.join(filter(None, (curve.place, ', '.join(marks))))}"


def _plot(title: str, lines: Sequence[TextLine], floor: float, is_log: tuple[bool, bool]) -> Text:
    """A plot of characters, with one marker per line and, dotted, the value by chance."""
    import plotext

    chart: Any = plotext
    chart.clear_figure()
    chart.plot_size(WIDTH, HEIGHT)
    chart.title(title)
    for scale, is_logarithmic in zip((chart.xscale, chart.yscale), is_log, strict=True):
        scale("log" if is_logarithmic else "linear")
    for line, marker in zip(lines, MARKERS, strict=False):
        chart.plot(list(line.x_P), list(line.y_P), marker="braille")
        chart.scatter(list(line.x_P), list(line.y_P), marker=marker)
    if is_log[0]:
        steps = sorted({step for line in lines for step in line.x_P})
        chart.xticks(steps, [f"{step:g}" for step in steps])
    if math.isfinite(floor):
        chart.hline(floor)
    return Text(str(chart.uncolorize(chart.build())))
