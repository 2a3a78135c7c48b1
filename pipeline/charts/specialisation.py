"""Charts of specialisation: loads and losses by group of text, and pairs of experts.

Shape suffixes: G groups of text, L expert layers, E experts, N values of k.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.charts.bars import bar_chart, column_chart
from evenload.pipeline.charts.lines import Line, line_chart
from evenload.pipeline.charts.loads import COLOURS, LOAD
from evenload.pipeline.charts.maps import Scale, Side, heat_map, per_cell, pooled, sharing
from evenload.pipeline.charts.style import BEYOND, BLUE, ORANGE, Chart

MAX_NAME = 24  # longer names of groups are shortened
LIFT = Scale(
    "% of chance",
    (0, 60, 100, 180, 300),
    COLOURS,
    (0, 100, 200, 300),
    {"more than 300 %": ("value > 300", BEYOND)},
)


def load_by_group(percent_GE: NDArray[np.int16], groups: Sequence[str]) -> Chart:
    """The loads of one layer's experts (columns) by group of text (rows)."""
    (G, E), most = percent_GE.shape, int(percent_GE.max())
    group = groups[int(percent_GE.argmax()) // E]
    sides = Side("group of text", [*map(_shortened, groups)]), Side("expert", range(E))
    largest = f"The largest is {most} % of the fair share, on {group}."
    description = f"Load of {E} experts on {G} groups of text. {largest}"
    return heat_map(percent_GE, *sides, LOAD, description, max(240, 130 + 24 * G))


def specialisation_by_layer(value_L: NDArray[np.float32], layers: Sequence[str]) -> Chart:
    """One bar per layer, from 0 (all experts take all groups alike) to 1."""
    low, high = float(np.min(value_L)), float(np.max(value_L))
    description = f"Specialisation of {len(layers)} layers, {low:.3f} to {high:.3f} of at most 1."
    return column_chart(layers, value_L, "layer", "specialisation, 0 to 1", description)


def lift_map(percent_EE: NDArray[np.int16], of: str, across: str) -> Chart:
    """How often a token has two experts, in percent of chance.

    Args:     percent_EE: -1: too few tokens for an estimate
              of, across: titles of rows and columns
    """
    E, size, most = len(percent_EE), 1, percent_EE.max() / 100
    while per_cell(-(-E // size), -(-E // size)) > 1:
        size += 1
    at = range(0, E, size)
    rows = Side(f"{of}{sharing(size)} ", at)  # the blank makes the two names of columns different
    columns = Side(f"{across}{sharing(size)}", at)
    description = f"{of} with {across}: at most {most:.1f} times as often as by chance."
    shown_XX = pooled(pooled(percent_EE, 0, size), 1, size)
    return heat_map(shown_XX, rows, columns, LIFT, description, 460)


def loss_by_group(loss_G: NDArray[np.float64], groups: Sequence[str], title: str) -> Chart:
    """One bar per group of text, the hardest first.  Args: title: of losses, with their unit"""
    order = np.argsort(-loss_G)
    names = [_shortened(groups[index]) for index in order]
    description = (
        f"{title}, of {len(names)} groups of text: hardest {names[0]} with "
        f"{loss_G.max():.3f}, easiest {names[-1]} with {loss_G.min():.3f}."
    )
    return bar_chart(names, loss_G[order], "group of text", title, description)


def loss_by_k(
    loss_N: NDArray[np.float64], k_N: NDArray[np.int64], trained_k: int, title: str
) -> Chart:
    """Held-out loss over the number of experts per token. The k of training is highlighted."""
    best, is_trained = int(loss_N.argmin()), k_N == trained_k
    lines = [
        Line("held-out loss", k_N, loss_N, BLUE),
        Line(f"trained with k = {trained_k}", k_N[is_trained], loss_N[is_trained], ORANGE),
    ]
    description = (
        f"{title}, with 1 to {k_N.max()} experts per token: lowest {loss_N[best]:.4f} "
        f"at k = {k_N[best]}; trained with k = {trained_k}."
    )
    return line_chart(
        lines, "experts per token, k", title, description, number=".4f", has_dots=True
    )


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
