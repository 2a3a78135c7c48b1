"""What an evaluation finds beyond one loss: by group of text, by top-k, by pairs of experts.

Letters: G groups, N values of k, L expert layers, E experts, K top-k, T tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class GroupScores(NamedTuple):
    """Held-out loss and loads of each group of documents, the largest group first.

    A group is a domain of synthetic text, a top directory or a file of a corpus. Of every group
    about as many tokens were scored, so loads compare between groups.
    """

    name_G: tuple[str, ...]
    loss_G: Floats  # nats per token
    bits_per_byte_G: Floats
    tokens_G: Integers  # scored
    count_GLE: Integers


class LossByK(NamedTuple):
    """The same text scored with k experts a token instead of the K of training; biases unchanged.

    One row has k = K. All rows score the same `tokens` tokens: differences between them are much
    surer than each loss by itself.
    """

    k_N: Integers  # ascending
    loss_N: Floats  # nats per token
    count_NLE: Integers
    tokens: int


class Routes(NamedTuple):
    """Which experts a token meets together; over the whole evaluation set.

    together_LEE: tokens that chose both experts; symmetric, the diagonal is the load
    onward_LEE:   [l, i, j]: tokens that chose i in layer l and j in the next, shape (L-1, E, E);
                  row i sums to K times its load, all of it to T K^2
    """

    together_LEE: Integers
    onward_LEE: Integers


class Detail(NamedTuple):
    """The parts of an evaluation that were asked for."""

    groups: GroupScores | None = None
    by_k: LossByK | None = None
    routes: Routes | None = None


def specialisation(count_GE: NDArray[Any]) -> float:
    """How far the load of an expert depends on the group, from 0 (not at all) to 1.

    Jensen-Shannon divergence of the groups' load distributions, equally weighted, over ln G; 1
    where no two groups share an expert. NaN for a single group, and where a group has no tokens.
    By chance alone about (G-1)(E-1) / (2 A ln G) for A assignments in all; tokens of one document
    are correlated, so real text starts somewhat higher.

    Source:   Lin 1991, "Divergence measures based on the Shannon entropy", eq. (5.1)
    """
    count = np.asarray(count_GE, dtype=np.float64)
    if len(count) < 2 or (count.sum(axis=-1) == 0).any():
        return float("nan")
    share_GE = count / count.sum(axis=-1, keepdims=True)
    divergence = _entropy(share_GE.mean(axis=0)) - _entropy(share_GE).mean()
    return float(divergence / np.log(len(count)))


def lift(together_EE: NDArray[Any], tokens: int) -> Floats:
    """Tokens that chose both experts, over what independent choices of these loads would give.

    1: independent; above: they belong together. NaN where an expert has no token. Shape (E, E).
    """
    load_E = np.diagonal(together_EE).astype(np.float64)
    expected_EE = np.outer(load_E, load_E) / tokens
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected_EE > 0, together_EE / expected_EE, np.nan)


def _entropy(share_E: Floats) -> Floats:
    logarithm_E = np.log(share_E, where=share_E > 0, out=np.zeros_like(share_E))
    return -(share_E * logarithm_E).sum(axis=-1)
