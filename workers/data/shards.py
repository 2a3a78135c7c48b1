"""Token streams in memory-mapped files, and batches of them by a cursor of (seed, position)."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError

TokenArray = NDArray[np.unsignedinteger[Any]]


def open_tokens(path: Path, dtype: str) -> TokenArray:
    """The tokens of a little-endian file, mapped and not read.

    Raises:   SpecError: missing, empty or cut file
    """
    width = np.dtype(dtype).itemsize
    size = path.stat().st_size if path.is_file() else 0
    if size == 0 or size % width:
        raise SpecError(
            f"{path}: {size} bytes are no file of {dtype} tokens; check the path and data.dtype"
        )
    return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")


class Batches(NamedTuple):
    """Training sequences in an order that (seed, position) alone decides.

    Every epoch cuts the stream at a phase of its own into windows of `seq_len + 1` tokens
    (inputs and shifted targets overlap by one) and visits them in a random order.
    """

    tokens: TokenArray
    seq_len: int
    seed: int

    @property
    def windows_per_epoch(self) -> int:
        # One window less than fits, so that every phase leaves whole windows.
        return (len(self.tokens) - 1) // self.seq_len - 1

    def take(self, position: int, count: int) -> NDArray[np.int64]:
        """Sequences `position` to `position + count`, shape (count, seq_len + 1)."""
        return np.stack([self._sequence(index) for index in range(position, position + count)])

    def _sequence(self, index: int) -> NDArray[np.int64]:
        epoch, place = divmod(index, self.windows_per_epoch)
        phase, order = _epoch_order(self.seed, epoch, self.windows_per_epoch, self.seq_len)
        start = phase + int(order[place]) * self.seq_len
        return self.tokens[start : start + self.seq_len + 1].astype(np.int64)


@lru_cache(maxsize=64)  # stacked trials have a seed each, and two epochs in one batch
def _epoch_order(seed: int, epoch: int, windows: int, seq_len: int) -> tuple[int, NDArray[Any]]:
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(seq_len)), rng.permutation(windows)


def held_out(tokens: TokenArray, seq_len: int, max_tokens: int) -> NDArray[np.int64]:
    """The first whole windows of the stream, at most `max_tokens` targets, shape (N, seq_len+1)."""
    windows = min(max(1, max_tokens // seq_len), (len(tokens) - 1) // seq_len)
    starts = np.arange(windows)[:, None] * seq_len + np.arange(seq_len + 1)
    return tokens[starts].astype(np.int64)
