"""Scores the same text with other values of top-k, to show how many experts a token needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evenload.pipeline.figures.evaluation import LossByK
from evenload.pipeline.spec.trial import ModelSpec, TrialSpec
from evenload.workers.model.transformer import MoELanguageModel
from evenload.workers.training.scoring import Scorer


def values_of_k(model: ModelSpec, which: str) -> list[int]:
    """Values of k in ascending order: all up to the number of experts, or only powers of two,
    top_k and the number of experts."""
    if which == "every":
        return list(range(1, model.num_experts + 1))
    powers = (2**exponent for exponent in range(model.num_experts.bit_length()))
    return sorted({*powers, model.top_k, model.num_experts})


def loss_by_k(spec: TrialSpec, scorer: Scorer, window_NS: NDArray[Any]) -> LossByK:
    """Scores the windows once for each k, with gate weights renormalised as in training.

    Batches shrink as k grows, so that memory does not grow with it.
    """
    values = values_of_k(spec.model, spec.eval.by_k)
    scores = [_with_top_k(spec, scorer, k).score(window_NS) for k in values]
    return LossByK(
        k_N=np.array(values, dtype=np.int64),
        loss_N=np.array([score.loss for score in scores]),
        count_NLE=np.stack([score.count_LE.cpu().numpy() for score in scores]),
        tokens=scores[0].tokens,
    )


def _with_top_k(spec: TrialSpec, scorer: Scorer, k: int) -> Scorer:
    """A scorer with the same weights (not copied) whose routers choose k experts."""
    with torch.device("meta"):
        model = MoELanguageModel(spec.model.model_copy(update={"top_k": k}), spec.runtime.backend)
    model.load_state_dict(scorer.model.state_dict(), assign=True)
    room = scorer.batch_sequences * spec.model.top_k // k
    return scorer._replace(model=model, batch_sequences=max(1, room))
