"""Results of an evaluation beyond its loss: by group of text, by top-k, and by pairs of experts.

Letters: G groups, N values of k, L expert layers, E experts, K top-k, T tokens.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class GroupScores(NamedTuple):
    """Held-out loss and loads per group of documents, the largest group first.

    A group is a domain of synthetic text, a top directory or a file of a corpus. About as many
    tokens of each group were scored, so loads can be compared between groups.
    """

    name_G: tuple[str, ...]
    loss_G: Floats  # nats per token
    bits_per_byte_G: Floats
    tokens_G: Integers  # number of scored tokens
    count_GLE: Integers


class LossByK(NamedTuple):
    """The same text scored with k experts per token instead of the K of training, equal biases.

    One value of k is K. The same `tokens` tokens are scored for every k, so differences of losses
    are much more certain than each loss.
    """

    k_N: Integers  # ascending
    loss_N: Floats  # nats per token
    count_NLE: Integers
    tokens: int


class Routes(NamedTuple):
    """Which experts tokens choose together and in succession, over the whole evaluation set.

    together_LEE: number of tokens that chose both experts; symmetric, with the load as diagonal
    onward_LEE:   number of tokens that chose i in layer l and j in the next; shape (L-1, E, E),
                  where row i sums to K times its load and each layer to T K^2
    """

    together_LEE: Integers
    onward_LEE: Integers


class Detail(NamedTuple):
    groups: GroupScores | None = None
    by_k: LossByK | None = None
    routes: Routes | None = None


def specialisation(count_GE: NDArray[Any]) -> float:
    """How far the load of an expert depends on the group, from 0 (not at all) to 1.

    This is the Jensen-Shannon divergence of the groups' load distributions, equally weighted, over
    ln G. It is 1 if no two groups share an expert, and NaN for a single group or if a group has no
    tokens. Chance alone gives about (G-1)(E-1) / (2 A ln G) for A assignments in all, and somewhat
    more for real text, because the tokens of a document are correlated.

    Source:   Lin 1991, "Divergence measures based on the Shannon entropy", eq. (5.1)
    """
    count = np.asarray(count_GE, dtype=np.float64)
    if len(count) < 2 or (count.sum(axis=-1) == 0).any():
        return float("nan")
    share_GE = count / count.sum(axis=-1, keepdims=True)
    divergence = _entropy(share_GE.mean(axis=0)) - _entropy(share_GE).mean()
    return float(divergence / np.log(len(count)))


def lift(together_EE: NDArray[Any], tokens: int) -> Floats:
    """Tokens that chose both experts, over the number for independent choices; shape (E, E).

    1 means independent, and more means that tokens choose them together. NaN if an expert has no
    token.
    """
    load_E = np.diagonal(together_EE).astype(np.float64)
    expected_EE = np.outer(load_E, load_E) / tokens
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected_EE > 0, together_EE / expected_EE, np.nan)


def _entropy(share_E: Floats) -> Floats:
    logarithm_E = np.log(share_E, where=share_E > 0, out=np.zeros_like(share_E))
    return -(share_E * logarithm_E).sum(axis=-1)
