"""Recordings of real scores: the gate scores of a training run and the biases that routed them.

A recording has the first tokens of every step. The stream `recorded` replays it under any rule. A
replay cannot show how another rule would have changed the router.

Letters: N steps, L expert layers, T tokens, E experts.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenload.pipeline.records.scores import Recording
from evenload.workers.model.contract import Output


class ScoreRecorder:
    """Watches a training loop and keeps the bias and the first `tokens` scores of every step.

    It keeps only the first micro-batch of a step.
    """

    def __init__(self, top_k: int, tokens: int = 1024) -> None:
        self._top_k, self._tokens, self._tokens_seen = top_k, tokens, 0
        self._score_NLTE: list[NDArray[np.float32]] = []
        self._bias_NLE: list[NDArray[np.float32]] = []

    def __call__(self, place: int, output: Output, bias_LE: Tensor) -> None:
        self._tokens_seen += len(output.routed[0].score_TE)
        if place > 0:
            return
        score_LTE = torch.stack([routed.score_TE[: self._tokens] for routed in output.routed])
        self._score_NLTE.append(score_LTE.detach().float().cpu().numpy())
        self._bias_NLE.append(bias_LE.float().cpu().numpy())

    @property
    def num_steps(self) -> int:
        return len(self._score_NLTE)

    def recording(self) -> Recording:
        """The recording so far; there must be at least one step."""
        step_tokens = self._tokens_seen // self.num_steps
        score_NLTE, bias_NLE = np.stack(self._score_NLTE), np.stack(self._bias_NLE)
        return Recording(score_NLTE, bias_NLE, self._top_k, step_tokens=step_tokens)
