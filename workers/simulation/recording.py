"""Recordings of real scores: the gate scores of a training run and the biases that routed them.

A recording has the first tokens of every step. The stream `recorded` replays it under any rule. A
replay cannot show how another rule would have changed the router.

Letters: N steps, L expert layers, T tokens, E experts.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.workers.model.contract import Output
from evenload.workers.simulation.score_streams import NO_RECORDING, UNREADABLE


class Recording(NamedTuple):
    score_NLTE: NDArray[np.float32]
    bias_NLE: NDArray[np.float32]
    top_k: int


class ScoreRecorder:
    """Watches a training loop and keeps the bias and the first `tokens` scores of every step.

    It keeps only the first micro-batch of a step.
    """

    def __init__(self, top_k: int, tokens: int = 1024) -> None:
        self._top_k = top_k
        self._tokens = tokens
        self._score_NLTE: list[NDArray[np.float32]] = []
        self._bias_NLE: list[NDArray[np.float32]] = []

    def __call__(self, place: int, output: Output, bias_LE: Tensor) -> None:
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
        return Recording(np.stack(self._score_NLTE), np.stack(self._bias_NLE), self._top_k)


def write_recording(path: Path, recording: Recording) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            score_NLTE=recording.score_NLTE,
            bias_NLE=recording.bias_NLE,
            top_k=np.array(recording.top_k),
        )
    return path


def read_recording(path: Path) -> Recording:
    """Raises: SpecError: the file is missing or not a recording"""
    try:
        with path.open("rb") as file, np.load(file) as content:
            return Recording(content["score_NLTE"], content["bias_NLE"], int(content["top_k"]))
    except UNREADABLE:
        raise SpecError(f"{path}: {NO_RECORDING}") from None
