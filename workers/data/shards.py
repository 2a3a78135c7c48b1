"""Memory-mapped token streams, and batches of them that a seed and a position determine."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError

TokenArray = NDArray[np.unsignedinteger[Any]]
UINT16_LIMIT = 65536


def token_type(vocab_size: int) -> str:
    """The smallest type of a token on disk that has room for this many."""
    return "uint16" if vocab_size <= UINT16_LIMIT else "uint32"


def open_tokens(path: Path, dtype: str) -> TokenArray:
    """The tokens of a little-endian file, memory-mapped.

    Raises:   SpecError: the file is missing, empty or truncated
    """
    width = np.dtype(dtype).itemsize
    size = path.stat().st_size if path.is_file() else 0
    if size == 0 or size % width:
        raise SpecError(
            f"{path}: {size} bytes are not a file of {dtype} tokens; check the path and data.dtype"
        )
    return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")


class JoinedTokens:
    """Several streams as one, of which only what is asked for is read."""

    def __init__(self, parts: Sequence[TokenArray]) -> None:
        self._parts = parts
        self._start_P = np.cumsum([0, *(len(part) for part in parts)])

    def __len__(self) -> int:
        return int(self._start_P[-1])

    def __getitem__(self, places: slice | NDArray[np.integer[Any]]) -> TokenArray:
        if isinstance(places, slice):
            places = np.arange(*places.indices(len(self)))
        part_N = np.searchsorted(self._start_P, places, side="right") - 1
        found_N = np.empty(places.shape, self._parts[0].dtype)
        for part in np.unique(part_N):
            found_N[part_N == part] = self._parts[part][
                places[part_N == part] - self._start_P[part]
            ]
        return found_N


Tokens = TokenArray | JoinedTokens


class Batches(NamedTuple):
    """Training sequences in an order that depends only on seed and position.

    Every epoch splits the stream into windows of `seq_len + 1` tokens (inputs and shifted targets
    overlap by one), starting at a random offset, and visits them in a random order.
    """

    tokens: Tokens
    seq_len: int
    seed: int

    @property
    def windows_per_epoch(self) -> int:
        # One window fewer than fits, so that all windows are whole at every offset.
        return (len(self.tokens) - 1) // self.seq_len - 1

    def take(self, position: int, count: int) -> NDArray[np.int64]:
        """Sequences `position` to `position + count`, shape (count, seq_len + 1)."""
        return np.stack([self._sequence(index) for index in range(position, position + count)])

    def _sequence(self, index: int) -> NDArray[np.int64]:
        epoch, place = divmod(index, self.windows_per_epoch)
        offset, order = _epoch_order(self.seed, epoch, self.windows_per_epoch, self.seq_len)
        start = offset + int(order[place]) * self.seq_len
        return self.tokens[start : start + self.seq_len + 1].astype(np.int64)


@lru_cache(maxsize=64)  # each stacked trial has its own seed, and a batch may span two epochs
def _epoch_order(seed: int, epoch: int, windows: int, seq_len: int) -> tuple[int, NDArray[Any]]:
    rng = np.random.default_rng((seed, epoch))
    return int(rng.integers(seq_len)), rng.permutation(windows)


def even_windows(tokens: Tokens, seq_len: int, max_tokens: int) -> NDArray[np.int64]:
    """Whole windows at even distances over the stream, so that every document has its share.

    Returns:  (N, seq_len + 1), up to `max_tokens` targets; all windows of a shorter stream
    """
    available = (len(tokens) - 1) // seq_len
    number = min(max(1, max_tokens // seq_len), available)
    first_N = np.arange(number) * available // number * seq_len
    return tokens[first_N[:, None] + np.arange(seq_len + 1)].astype(np.int64)
