"""Maps of expert loads in percent of the fair share, and of the longest idle streaks.

Shape suffixes: B bins of time, L expert layers, E experts, Q shares of the experts,
D shares of the depth.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts import style
from evenload.pipeline.charts.maps import Scale, Side, heat_map, per_cell, pooled, sharing
from evenload.pipeline.charts.style import Chart

Percent = NDArray[np.int16]  # of the fair share; -1: not counted

COLOURS = (style.LOWEST, style.LOW, style.FAIR, style.HIGH, style.HIGHEST)
LOAD = Scale(
    "load, % of the fair share",
    (1, 60, 100, 140, 200),
    COLOURS,
    (1, 50, 100, 150, 200),
    {
        "idle": ("value == 0", style.IDLE),
        "200 to 500 %": ("value > 200 && value <= 500", style.BEYOND),
        "more than 500 %": ("value > 500", style.EXTREME),
    },
    "datum.value == 1 ? '>0' : datum.label",
)
OF_MEAN_RANK = LOAD._replace(title="load, % of the mean rank")
DIFFERENCE = Scale(
    "points of the fair share",
    (-100, -50, 0, 50, 100),
    COLOURS,
    (-100, -50, 0, 50, 100),
    {"beyond ±100": ("abs(value) > 100", style.BEYOND)},
    "format(datum.value, '+d')",
    "+d",
    is_signed=True,
)


def load_by_layer(
    percent_LE: Percent, layer_names: Sequence[str], is_sorted: bool = False
) -> Chart:
    """The loads of all layers (rows) and experts (columns)."""
    L, E = percent_LE.shape
    size = per_cell(L, E)
    shown_LE = -np.sort(-percent_LE, axis=-1) if is_sorted else percent_LE
    rank = "rank of the expert, busiest first" if is_sorted else "expert"
    layers, experts = Side("layer", layer_names), Side(rank + sharing(size), range(0, E, size))
    description = f"Load of {E} experts in {L} layers. {extremes(percent_LE, layer_names)}"
    shown_LX, height = pooled(shown_LE, 1, size), max(240, 130 + 26 * L)
    return heat_map(shown_LX, layers, experts, LOAD, description, height)


def load_by_ranks(percent_LR: Percent, layer_names: Sequence[str]) -> Chart:
    """The loads of expert-parallel ranks (columns) by layer (rows), in percent of the mean rank."""
    L, R = percent_LR.shape
    description = f"Load of {R} ranks in {L} layers. {extremes(percent_LR, layer_names, 'rank')}"
    sides = Side("layer", layer_names), Side("rank", range(R))
    return heat_map(percent_LR, *sides, OF_MEAN_RANK, description, max(240, 130 + 26 * L))


def load_over_time(
    percent_BE: Percent, step_B: NDArray[np.int32], is_mean: bool = False, height: float = 440
) -> Chart:
    """The loads of the experts of one layer (rows) over time (columns).

    Args:     is_mean: bins are means over their steps, not maxima; cells of several bins likewise
    """
    B, E = percent_BE.shape
    size = per_cell(E, B)
    steps = Side("optimizer step" + sharing(size, "bins"), step_B[::size].tolist())
    description = f"Load of {E} experts over time. {extremes(percent_BE.T)}"
    shown_EX = pooled(percent_BE.T, 1, size, is_mean)
    return heat_map(shown_EX, Side("expert", range(E)), steps, LOAD, description, height)


def load_by_rank_and_depth(percent_LQ: Percent, name: str) -> Chart:
    """The loads by depth of the layer (rows) and rank of the expert (columns).

    Both axes are in percent, so that maps of different sizes look alike.
    """
    description = (
        f"Load of {name} by depth of the layer and rank of the expert, "
        f"at most {percent_LQ.max()} % of the fair share."
    )
    return heat_map(percent_LQ, *_shares(percent_LQ.shape), LOAD, description, 320)


def load_difference(points_DQ: NDArray[np.int16], name: str, reference: str) -> Chart:
    """The difference of two maps by depth of the layer (rows) and rank of the expert (columns)."""
    description = (
        f"Load of {name} minus that of {reference} by depth and rank: from "
        f"{points_DQ.min():+d} to {points_DQ.max():+d} points of the fair share."
    )
    return heat_map(points_DQ, *_shares(points_DQ.shape), DIFFERENCE, description, 320)


def longest_idle_streaks(streak_LE: NDArray[np.int32], layers: Sequence[str]) -> Chart:
    """The most successive steps without a token by layer (rows) and expert; blank: none."""
    L, E = streak_LE.shape
    size, most = per_cell(L, E), int(streak_LE.max())
    layer, expert = divmod(int(streak_LE.argmax()), E)
    shown_LE, top = pooled(streak_LE, 1, size), max(1, most)
    colours = (style.GOOD, style.MIDDLING, style.BAD)
    scale = Scale("steps", (0, top / 2, top), colours, (0, top))
    sides = Side("layer", layers), Side("expert" + sharing(size), range(0, E, size))
    description = (
        f"Longest idle streaks of {E} experts in {L} layers: at most {most:,} "
        f"steps, of expert {expert} in layer {layers[layer]}."
    )
    return heat_map(np.where(shown_LE > 0, shown_LE, -1), *sides, scale, description, 340)


def extremes(
    percent_YX: Percent, row_names: Sequence[str] | None = None, what: str = "expert"
) -> str:
    """A sentence with the range of a map and its fullest cell."""
    counted = percent_YX[percent_YX >= 0]
    if not counted.size:
        return "Nothing was counted."
    row, column = divmod(int(percent_YX.argmax()), percent_YX.shape[1])
    where = f"{what} {row}" if row_names is None else f"{what} {column} of layer {row_names[row]}"
    return (
        f"From {counted.min()} % to {counted.max()} % of the fair share ({where}); "
        f"{100 * float((counted == 0).mean()):.1f} % of the cells are idle."
    )


def _shares(shape: Sequence[int]) -> tuple[Side, Side]:
    """The two axes of a map in percent, at the middle of each cell."""
    depth, share = ((100 * (np.arange(n) + 0.5) / n).round(1).tolist() for n in shape)
    return Side("depth, %", depth), Side("share of the experts, busiest first, %", share)
