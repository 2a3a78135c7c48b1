"""Charts of the cost of imbalance: step time lost by waiting for the fullest rank.

Letters: R expert-parallel ranks.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import altair as alt
import numpy as np

from evenload.pipeline.charts import style
from evenload.pipeline.charts.bars import bar_chart
from evenload.pipeline.charts.style import DASHES, Chart, looks

MAX_BARS = 40  # settings in one chart; of more, those with the smallest and largest loss
WAITS = "step time lost by waiting, %"
RANKS = "expert-parallel size, ranks"


class SettingWaits(NamedTuple):
    """The share of step time that one setting at one expert count loses by waiting."""

    label: str
    share_R: Mapping[int, float]  # ranks -> mean over trials
    low_R: Mapping[int, float]  # ranks -> smallest share of a trial
    high_R: Mapping[int, float]  # ranks -> largest share of a trial
    experts: int | None = None  # None: mean over all counts
    trials: int = 1

    @property
    def name(self) -> str:
        return f"{self.label}, {self.counted}" if self.experts else self.label

    @property
    def counted(self) -> str:
        return f"{self.experts} experts" if self.experts else "all counts"


def waits_by_ranks(
    found: Sequence[SettingWaits], sizes: Sequence[int], chosen: int, height: float = 420
) -> Chart:
    """Lost step time over the expert-parallel size, with one colour per setting.

    Expert counts differ in the dashes.
    """
    rows = [(one, size) for one in found for size in sizes if size in one.share_R]
    labels = [one.label for one, _ in rows]
    columns = {
        "setting": labels,
        "experts": [one.counted for one, _ in rows],
        RANKS: [str(size) for _, size in rows],
        WAITS: [100 * one.share_R[size] for one, size in rows],
    }
    settings = {label: look.colour for label, look in looks([*dict.fromkeys(labels)]).items()}
    counts = list(dict.fromkeys(o.counted for o in sorted(found, key=lambda o: o.experts or 0)))
    dashes = {count: list(DASHES[place % len(DASHES)]) for place, count in enumerate(counts)}
    key = style.legend(settings, "stroke")
    picked = style.picker("setting", key)
    base = alt.Chart(style.table(columns)).encode(
        x=style.name(alt.X, RANKS, sort=[*map(str, sizes)], axis=alt.Axis(labelAngle=0)),
        y=style.number(alt.Y, WAITS),
        color=style.scaled(alt.Color, "setting", settings, key),
        opacity=style.lit(picked, 1.0, 0.12),
    )
    lines = base.mark_line(strokeWidth=1.8).encode(
        strokeDash=style.scaled(
            alt.StrokeDash, "experts", dashes, style.legend(counts, "stroke", "bottom")
        )
    )
    dots = base.mark_point(filled=True, size=45).encode(
        detail=style.name(alt.Detail, "experts"),
        tooltip=style.tips({"setting": "", "experts": "", WAITS: ".1f"}),
    )
    return style.layered(
        lines.add_params(picked), dots, description=_description(found, chosen), height=height
    )


def waits_by_setting(found: Sequence[SettingWaits], ranks: int) -> Chart:
    """Lost step time at one size: one bar per setting, least first, with whiskers over trials."""
    shown = sorted((one for one in found if ranks in one.share_R), key=lambda o: o.share_R[ranks])
    if len(shown) > MAX_BARS:
        shown = [*shown[: MAX_BARS // 2], *shown[-MAX_BARS // 2 :]]
    mean, low, high = (
        100 * np.array([getattr(one, part)[ranks] for one in shown])
        for part in ("share_R", "low_R", "high_R")
    )
    ends = (low, high) if any(one.trials > 1 for one in shown) else None
    names, description = [one.name for one in shown], _description(found, ranks)
    return bar_chart(
        names, mean, "setting", WAITS, description, form=".1f", whiskers=ends, is_labelled=True
    )


def _description(found: Sequence[SettingWaits], ranks: int) -> str:
    shares = {one.name: 100 * one.share_R[ranks] for one in found if ranks in one.share_R}
    if not shares:
        return f"Step time lost by waiting at {ranks} ranks. No setting has recorded loads."
    low, high = min(shares, key=lambda n: shares[n]), max(shares, key=lambda n: shares[n])
    return (
        f"Step time lost by waiting for the fullest of {ranks} ranks: from {shares[low]:.1f} % "
        f"with {low} to {shares[high]:.1f} % with {high}."
    )
