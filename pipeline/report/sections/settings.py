"""The section with the figures of every setting, and with loss against imbalance, per place."""

import math

from evenload.pipeline.charts.front import Point, Role, pareto_front
from evenload.pipeline.figures.metrics import METRICS, columns, legend
from evenload.pipeline.figures.wording import number, wrapped
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Block, Columns, Figure, Section, Table, Text
from evenload.pipeline.sweep.answer_text import method, place_note
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import LOSS, Setting, Verdict

MAX_PANELS = 6
SPEED = "tokens_per_second"  # left out, because it depends on the machines


def settings(evidence: Evidence) -> Section | None:
    places = [place for place in evidence.answer.places if place.settings]
    if not places:
        return None
    blocks: list[Block] = [Text(method(evidence.answer)), *map(_table, places)]
    panels = [
        Figure(pareto_front(_points(place), _floor(place), height=360), place.place)
        for place in places[:MAX_PANELS]
        if len(place.settings) > 1
    ]
    if panels:
        note = (
            "Lower left is better. Numbers are those in the table of the place. Line: no other "
            "setting has both less loss and less imbalance. A setting far away is named below the "
            "axis."
        )
        blocks += [Text(note), Columns(panels)]
    return Section("Evidence", blocks)


def _table(place: PlaceAnswer) -> Table:
    others = [metric for metric in columns() if metric.name not in (LOSS, SPEED)]
    rows = [
        (
            str(row),
            setting.label,
            str(setting.seeds),
            setting.shown(LOSS),
            number(setting.above_best),
            number(setting.against_none, "+.3f"),
            number(setting.over_floor, ".1f"),
            *(setting.shown(metric.name) for metric in others),
            setting.remark,
        )
        for row, setting in enumerate(place.settings, 1)
    ]
    named = {row for row, setting in enumerate(place.settings) if setting is place.named}
    loss = wrapped(METRICS[LOSS].head)
    titles = ("#", "<setting", "seeds", loss, "above\nthe best", "against\nnone", "over\nfloor")
    heads = (wrapped(metric.head) for metric in others)
    note = f"{place_note(place)} {legend([METRICS[LOSS], *others])}"
    return Table((*titles, *heads, "<verdict"), rows, note, frozenset(named), title=place.place)


def _floor(place: PlaceAnswer) -> float:
    floors = {setting.figures["max_vio_floor"] for setting in place.settings}
    return floors.pop() if len(floors) == 1 else math.nan


def _points(place: PlaceAnswer) -> list[Point]:
    return [
        Point(
            setting.label,
            _role(setting),
            max_vio=setting.max_vio,
            bits=setting.mean_loss,
            bits_half=math.nan if setting.loss.half is None else setting.loss.half,
            on_front=setting.on_front,
            trials=setting.seeds,
            is_yardstick=setting.is_yardstick,
            mark=str(row),
        )
        for row, setting in enumerate(place.settings, 1)
    ]


def _role(setting: Setting) -> Role:
    if setting.verdict is Verdict.NAMED:
        return "recommended"
    return "controls" if setting.is_yardstick else "settings"
