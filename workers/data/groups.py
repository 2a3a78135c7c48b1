"""The group of documents that each validation token belongs to.

A group is a domain of synthetic text, the top directory of a file, the label or file of a row, or a
shard. The token stream contains the documents one after another.

Letters: G groups, D documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.workers.data.shards import Tokens


class Groups(NamedTuple):
    names: tuple[str, ...]
    group_D: NDArray[np.int64]  # index into `names`
    tokens_D: NDArray[np.int64]
    bytes_D: NDArray[np.float64]  # bytes of the text that the tokens encode

    @property
    def bytes_per_token(self) -> float:
        return float(self.bytes_D.sum() / self.tokens_D.sum())

    def largest(self, number: int, least_tokens: int) -> list[Group]:
        """The groups with the most tokens, largest first, without those below `least_tokens`."""
        tokens_G = np.bincount(self.group_D, self.tokens_D, len(self.names))
        bytes_G = np.bincount(self.group_D, self.bytes_D, len(self.names))
        order = np.argsort(-tokens_G, kind="stable")[:number]
        return [
            Group(self.names[index], int(index), float(bytes_G[index] / tokens_G[index]))
            for index in order
            if tokens_G[index] >= least_tokens
        ]

    def windows(
        self, stream: Tokens, group: Group, seq_len: int, max_tokens: int
    ) -> NDArray[np.int64]:
        """Whole windows at even distances over the joined documents of a group.

        Returns:  (N, seq_len + 1), up to `max_tokens` targets; all windows of a smaller group
        """
        document = np.flatnonzero(self.group_D == group.place)
        end = self.tokens_D[document].cumsum()
        available = int(end[-1] - 1) // seq_len
        number = min(max(1, max_tokens // seq_len), available)
        first_N = np.arange(number) * available // number * seq_len
        position_NS = first_N[:, None] + np.arange(seq_len + 1)
        inside_NS = np.searchsorted(end, position_NS, side="right")
        before = self.tokens_D.cumsum()[document] - end  # tokens of other groups before each end
        return stream[position_NS + before[inside_NS]].astype(np.int64)

    def content(self) -> bytes:
        """The names, groups and token counts as bytes for a digest."""
        return "\0".join(self.names).encode() + self.group_D.tobytes() + self.tokens_D.tobytes()


class Group(NamedTuple):
    name: str
    place: int  # index in `Groups.names`
    bytes_per_token: float


def group_documents(
    names: Sequence[str], tokens_D: Sequence[int], bytes_D: Sequence[float]
) -> Groups:
    """Groups from the name of each document's group and its sizes, in the order of the stream."""
    unique, group_D = np.unique(np.array(names), return_inverse=True)
    return Groups(
        tuple(str(name) for name in unique),
        group_D.astype(np.int64),
        np.array(tokens_D, dtype=np.int64),
        np.array(bytes_D, dtype=np.float64),
    )


def write_groups(path: Path, groups: Groups) -> None:
    np.savez(
        path,
        names=np.array(groups.names),
        group_D=groups.group_D,
        tokens_D=groups.tokens_D,
        bytes_D=groups.bytes_D,
    )


def read_groups(path: Path) -> Groups:
    with np.load(path) as arrays:
        names = tuple(str(name) for name in arrays["names"])
        return Groups(names, arrays["group_D"], arrays["tokens_D"], arrays["bytes_D"])
