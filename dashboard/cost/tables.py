"""The cost of imbalance in a planned run by setting: shares of a step become hours and money.

Letters: R expert-parallel ranks.
"""

import math
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from evenload.pipeline.charts.cost import SettingWaits
from evenload.pipeline.figures.cost import EP_SIZES, JOULES_PER_KWH, CostSettings, Waiting
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.axes import Axes

SECONDS_PER_HOUR = 3600.0


class Plan(NamedTuple):
    ranks: int
    gpu_hours: float
    price: float  # dollars per GPU hour
    watts: float  # power of a GPU, with overhead
    grams_per_kwh: float


class Bill(NamedTuple):
    share: float
    gpu_hours: float
    money: float  # dollars
    kwh: float
    kilograms: float  # CO2 equivalent


def losses(
    found: Iterable[tuple[TrialRecord, Sequence[Waiting]]], axes: Axes
) -> list[SettingWaits]:
    """One loss per setting and expert count, in the order of trials, over trials with loads."""
    groups: dict[tuple[str, int], list[dict[int, float]]] = defaultdict(list)
    for trial, waiting in found:
        if waiting:
            key = (axes.beside_experts(trial), int(trial.spec["model"]["num_experts"]))
            groups[key].append({one.ranks: one.step_share for one in waiting})
    return [
        SettingWaits(
            label,
            {ranks: fmean(one[ranks] for one in shares) for ranks in shares[0]},
            {ranks: min(one[ranks] for one in shares) for ranks in shares[0]},
            {ranks: max(one[ranks] for one in shares) for ranks in shares[0]},
            experts,
            len(shares),
        )
        for (label, experts), shares in groups.items()
    ]


def sizes(found: Sequence[SettingWaits]) -> list[int]:
    """The expert-parallel sizes that divide the number of experts of at least one setting."""
    return [size for size in EP_SIZES if any(size in loss.share_R for loss in found)]


def bill(share: float, plan: Plan) -> Bill:
    """The cost of a share of the plan's GPU hours, if waiting GPUs draw their full power."""
    hours = share * plan.gpu_hours
    kwh = hours * SECONDS_PER_HOUR * plan.watts / JOULES_PER_KWH
    return Bill(share, hours, hours * plan.price, kwh, kwh * plan.grams_per_kwh / 1000)


def plan_of(
    ranks: int, gpu_hours: float, price: float, watts: float, settings: CostSettings
) -> Plan:
    return Plan(ranks, gpu_hours, price, watts * settings.overhead, settings.grams_per_kwh)


def bill_table(found: Sequence[SettingWaits], plan: Plan) -> pd.DataFrame:
    """One row per setting and expert count that the plan's ranks divide, the least loss first."""
    rows = [
        {
            "setting": loss.label,
            "experts": loss.experts,
            **bill(loss.share_R[plan.ranks], plan)._asdict(),
            "trials": loss.trials,
        }
        for loss in found
        if plan.ranks in loss.share_R
    ]
    columns = ["setting", "experts", *Bill._fields, "trials"]
    table = pd.DataFrame(rows, columns=columns)
    table["share"] *= 100
    return table.sort_values("share", ignore_index=True)


def mean_share(found: Iterable[SettingWaits], labels: Container[str], ranks: int) -> float:
    """The mean share over expert counts of settings; NaN if the ranks divide none of them."""
    shares = [
        loss.share_R[ranks] for loss in found if loss.label in labels and ranks in loss.share_R
    ]
    return fmean(shares) if shares else math.nan
