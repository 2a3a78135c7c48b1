"""What selects experts where a rule moves a bias and does nothing else.

The model knows this one function by name, so that a router kernel may do it on the way; who
computed the bias it does not know.
"""

from __future__ import annotations

from torch import Tensor


def add_bias(score_TE: Tensor, bias_E: Tensor) -> Tensor:
    """The score used to select: the plain biased one."""
    return score_TE + bias_E
