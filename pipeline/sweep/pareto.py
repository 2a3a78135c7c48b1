"""The Pareto front: what no other point beats in one objective without losing in the other."""

from __future__ import annotations

import math
from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For every point (both objectives: lower is better) whether no other point dominates it.

    A point dominates another that it beats in one objective and does not lose to in the other;
    equal points do not dominate each other.
    """
    front: set[tuple[float, float]] = set()
    least = math.inf  # of the second objective, among all that are at least as good in the first
    for point in sorted(set(points)):
        if point[1] < least:
            front.add(point)
            least = point[1]
    return [point in front for point in points]
