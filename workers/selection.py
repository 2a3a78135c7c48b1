"""The default way to select experts: add a bias to the score.

The model recognises this one function, so that a router kernel can apply it and, if given bins,
count the margins in the same pass. The model knows neither the rule that computed the bias nor
the rule that reads the counts.
"""

from typing import NamedTuple

from torch import Tensor


class Bins(NamedTuple):
    """Bins of the margins by distance from the boundary; the first bin ends at `smallest`."""

    num: int
    smallest: float  # units of the score
    per_octave: int


NO_BINS = Bins(0, 1.0, 1)


def add_bias(score_TE: Tensor, bias_E: Tensor) -> Tensor:
    """The score that selects experts."""
    return score_TE + bias_E
