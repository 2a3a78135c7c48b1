"""The Pareto front: the points that no other point dominates."""

from __future__ import annotations

import math
from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For every point, whether no other point dominates it. Lower is better in both objectives.

    A point dominates another if it is better in one objective and at least as good in the other.
    Equal points do not dominate each other.
    """
    front: set[tuple[float, float]] = set()
    least = (
        math.inf
    )  # smallest second objective of the points so far, which are better in the first
    for point in sorted(set(points)):
        if point[1] < least:
            front.add(point)
            least = point[1]
    return [point in front for point in points]
