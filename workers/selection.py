"""What selects experts where a rule moves a bias and does nothing else.

The model knows this one function by name, so that a router kernel may do it on the way, and count
margins in the bins that it is given; who computed the bias and who wants the counts it does not
know.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Bins(NamedTuple):
    """Bins of the margins, by distance from the boundary: the first ends at `smallest`."""

    num: int
    smallest: float  # units of the score
    per_octave: int


NO_BINS = Bins(0, 1.0, 1)


def add_bias(score_TE: Tensor, bias_E: Tensor) -> Tensor:
    """The score used to select: the plain biased one."""
    return score_TE + bias_E
