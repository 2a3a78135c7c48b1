"""Scores the same text with other values of top-k, to show how many experts a token needs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures.evaluation import LossByK
from evenload.pipeline.spec.trial import Model, TrialSpec
from evenload.workers.training.scoring import Scorer


def values_of_k(model: Model, which: str) -> list[int]:
    """Values of k in ascending order: all up to the number of experts that a token can reach, or
    only powers of two, top_k and that number."""
    most = model.num_reachable
    if which == "every":
        return list(range(1, most + 1))
    powers = (2**exponent for exponent in range(most.bit_length()))
    return sorted({*powers, model.top_k, most})


def loss_by_k(spec: TrialSpec, scorer: Scorer, window_NS: NDArray[Any]) -> LossByK | None:
    """Scores the windows once for each k, with gate weights renormalised as in training.

    Batches shrink as k grows, so that memory does not grow with it.

    Returns:  None if the model's code does not allow another k
    """
    values = values_of_k(spec.model, spec.eval.by_k)
    scores = []
    for k in values:
        model = scorer.model.with_top_k(k)
        if model is None:
            return None
        room = max(1, scorer.batch_sequences * spec.model.top_k // k)
        scores.append(scorer._replace(model=model, batch_sequences=room).score(window_NS))
    return LossByK(
        k_N=np.array(values, dtype=np.int64),
        loss_N=np.array([score.loss for score in scores]),
        count_NLE=np.stack([score.count_LE.cpu().numpy() for score in scores]),
        tokens=scores[0].tokens,
    )
