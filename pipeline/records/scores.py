"""A recording of router scores: a sample of the tokens of some optimizer steps, as one .npz file.

`evenload train --record-scores`, `evenload.attach(record_scores=)` and `evenload import` write it;
`evenload advise` and `evenload simulate` read it.

Letters: N recorded steps, L expert layers, T tokens, E experts.
"""

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError

FILE = "scores.npz"  # in the folder of a run
MAX_BYTES = 2**29  # of a sample; fewer tokens are kept where more would not fit

# NumPy raises these for files that are missing, empty, damaged, a pickle or a single array. Its
# messages are not passed on, because they advise to allow pickles.
UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError,
    MemoryError, RuntimeError, SyntaxError, TokenError, BadZipFile, struct.error, zlib.error,
)  # fmt: skip
NO_RECORDING = (
    "not a recording of scores; make one with `evenload train --record-scores` or "
    "`evenload.attach(record_scores=)`"
)

Scores = NDArray[np.float32]


class Recording(NamedTuple):
    """Scores without any bias, and the biases that were added to select.

    A layer's tokens are the first ones of a step, so they are whole sequences but for the last.
    """

    score_NLTE: Scores
    bias_NLE: Scores
    top_k: int
    every: int = 1  # optimizer steps from one recorded step to the next
    step_tokens: int = 0  # all tokens of a step, on average; 0: those recorded
    unit: str = "probability"  # of a score, and so of a bias

    @property
    def sampled(self) -> float:
        """The recorded share of a step's tokens."""
        tokens = self.score_NLTE.shape[2]
        return tokens / max(self.step_tokens, tokens)


def path_of(place: Path) -> Path:
    """The recording in a folder; a file is one itself."""
    return place / FILE if place.is_dir() else place


def write_recording(path: Path, recording: Recording) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        arrays: dict[str, Any] = recording._asdict()
        np.savez(file, **arrays)
    return path


def read_recording(place: Path) -> Recording:
    """The recording in a file, or in a run's folder.

    Raises:   SpecError: there is none, or its arrays do not fit together
    """
    path = path_of(place)
    try:
        with path.open("rb") as file, np.load(file) as content:
            optional = {
                name: content[name].item() for name in Recording._fields[3:] if name in content
            }
            found = Recording(
                content["score_NLTE"], content["bias_NLE"], int(content["top_k"]), **optional
            )
    except UNREADABLE:
        raise SpecError(f"{path}: {NO_RECORDING}") from None
    score, bias = found.score_NLTE, found.bias_NLE
    if score.ndim != 4 or bias.shape != score.shape[:2] + score.shape[3:]:
        raise SpecError(
            f"{path}: score_NLTE has the shape {score.shape} and bias_NLE {bias.shape}; they must "
            "be (steps, layers, tokens, experts) and (steps, layers, experts)"
        )
    if not 0 < found.top_k < score.shape[3]:
        raise SpecError(f"{path}: top_k={found.top_k} of {score.shape[3]} experts; record it again")
    return found


def room_for(tokens: int, steps: int, layers: int, experts: int) -> int:
    """The tokens per step and layer that fit into MAX_BYTES, at most `tokens`."""
    return max(1, min(tokens, MAX_BYTES // (4 * steps * layers * experts)))


def stacked(sample_NL: Sequence[Sequence[Scores]]) -> tuple[Scores, list[int]]:
    """Samples (T, E) of different numbers of tokens as one array, and the steps that are in it.

    It has as many tokens as nine of ten steps have. Steps with fewer are left out.
    """
    shortest_N = [min(len(sample) for sample in sample_L) for sample_L in sample_NL]
    tokens = max(1, sorted(shortest_N)[len(shortest_N) // 10])
    kept = [number for number, shortest in enumerate(shortest_N) if shortest >= tokens]
    rows = [np.stack([sample[:tokens] for sample in sample_NL[number]]) for number in kept]
    return np.stack(rows) if rows else np.zeros((0, 0, 0, 0), np.float32), kept
