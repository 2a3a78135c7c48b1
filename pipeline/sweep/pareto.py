"""The Pareto front: what no other point beats in one objective without losing in the other."""

from __future__ import annotations

from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For every point (both objectives: lower is better) whether no other point dominates it.

    A point dominates another that it beats in one objective and does not lose to in the other;
    equal points do not dominate each other.
    """
    return [not any(_dominates(other, point) for other in points) for point in points]


def _dominates(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one != other
