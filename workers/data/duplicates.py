"""Splits documents by their content, so that copies of a text never stand on both sides.

Letters: N documents, W words.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from evenload.workers.data.documents import Document

RUN = 50  # words; Lee et al. 2022, arXiv:2107.06499, count a repeated run of 50 tokens
SIMILAR = 0.1  # share of the shorter document's runs that a near duplicate has as well
BOILERPLATE = 100  # a run in more documents than this, such as a licence, makes none similar
FAMILY = 10  # more near duplicates than these all train, so that they do not rule the evaluation
MULTIPLIER = np.uint64(6364136223846793005)  # Knuth's, for a polynomial hash modulo 2**64

Hashes = NDArray[np.uint64]


class Origin(NamedTuple):
    """What became of the documents of a corpus of text."""

    documents: int  # in both parts
    empty: int  # left out
    copies: int  # left out, because another document has the same words in the same order
    similar: int  # near duplicates, kept on the side of the document they resemble
    leaked_share: float  # of the held-out words, in runs of 50 that training also has

    def __str__(self) -> str:
        return (
            f"{self.documents:,} different documents; {self.empty:,} without text (null or "
            f"empty) and {self.copies:,} copies left out; {self.similar:,} near duplicates on the "
            f"side of the one they resemble; {self.leaked_share:.1%} of the held-out words also "
            f"stand in training, in runs of {RUN} words"
        )


class Split(NamedTuple):
    train: list[Document]
    validation: list[Document]
    origin: Origin


def split(documents: Sequence[Document], share: float) -> Split:
    """Holds out about `share` of the distinct documents.

    A hash of the words decides, so that the split depends neither on paths nor on the order nor on
    the machine. Documents that share a tenth of their runs of 50 words go to one side together.
    """
    told = [document for document in documents if document.text.strip()]
    distinct = _distinct(told)
    words = [_word_hashes(document.text) for document in distinct.values()]
    family_N = _families([_runs(word_W) for word_W in words])
    size = Counter(family_N)
    first: dict[int, str] = {}  # the smallest hash of each family, because `distinct` is sorted
    for name, family in zip(distinct, family_N, strict=True):
        first.setdefault(family, name)
    is_held_N = [size[one] <= FAMILY and _is_below(first[one], share) for one in family_N]
    is_trained_N = [not held for held in is_held_N]
    train, validation = (
        list(compress(distinct.values(), side)) for side in (is_trained_N, is_held_N)
    )
    leaked = _leaked_share(list(compress(words, is_trained_N)), list(compress(words, is_held_N)))
    empty, copies = len(documents) - len(told), len(told) - len(distinct)
    similar = len(distinct) - len(first)
    return Split(train, validation, Origin(len(distinct), empty, copies, similar, leaked))


def _distinct(documents: Sequence[Document]) -> dict[str, Document]:
    """One document per text, by the hash of its words, in the order of these hashes."""
    found: dict[str, Document] = {}
    for document in sorted(documents, key=lambda one: (one.text, one.group)):
        found.setdefault(fingerprint(document.text), document)
    return dict(sorted(found.items()))


def fingerprint(text: str) -> str:
    """Equal for texts that differ only in white space and in how Unicode composes characters."""
    words = " ".join(unicodedata.normalize("NFC", text).split())
    return hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()


def _is_below(name: str, share: float) -> bool:
    # Hashed once more, because the smallest of several names is itself not uniform.
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 2**64 < share


def _word_hashes(text: str) -> Hashes:
    words = unicodedata.normalize("NFC", text).encode(errors="surrogatepass").split()
    return np.array([crc32(word) for word in words], dtype=np.uint64)


def _runs(word_W: Hashes) -> Hashes:
    """A hash of every run of RUN words."""
    count = max(0, len(word_W) - RUN + 1)
    run = np.zeros(count, np.uint64)
    for place in range(RUN):
        run = run * MULTIPLIER + word_W[place : place + count]
    return run


def _families(runs: Sequence[Hashes]) -> list[int]:
    """A number for each document, the same for near duplicates."""
    # Here, because reading what was split before need not wait for it.
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import connected_components

    size, owner = len(runs), np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    different, place = np.unique(np.concatenate(runs), return_inverse=True)
    has = csr_array((np.ones(len(place), bool), (owner, place)), (size, len(different)))
    has.sum_duplicates()  # a run counts once per document
    runs_N, documents = has.count_nonzero(axis=1), has.count_nonzero(axis=0)
    kept = has[:, (documents > 1) & (documents <= BOILERPLATE)].astype(np.int64)
    shared = coo_array(kept @ kept.T)
    row, column = shared.coords
    is_near = shared.data >= SIMILAR * np.minimum(runs_N[row], runs_N[column])
    graph = coo_array((is_near[is_near], (row[is_near], column[is_near])), (size, size))
    return [int(label) for label in connected_components(graph, directed=False)[1]]


def _leaked_share(train: Sequence[Hashes], validation: Sequence[Hashes]) -> float:
    """The share of the held-out words in a run of RUN words that some training document has."""
    runs = [_runs(word_W) for word_W in validation]
    none = np.zeros(0, np.uint64)
    known, asked = (
        np.sort(np.concatenate([none, *map(_runs, train)])),
        np.concatenate([none, *runs]),
    )
    # Faster than np.isin, which first removes what is equal.
    after, before = (np.searchsorted(known, asked, side) for side in ("right", "left"))
    is_known = after > before
    ends = np.cumsum([len(run) for run in runs])[:-1]
    leaked = sum(map(_covered, np.split(is_known, ends)))
    return leaked / max(1, sum(map(len, validation)))


def _covered(is_known: NDArray[np.bool_]) -> int:
    """How many words lie in at least one known run, from the starts of all runs of a document."""
    change = np.zeros(len(is_known) + RUN, np.int64)
    change[: len(is_known)] += is_known
    change[RUN:] -= is_known
    return int((change.cumsum() > 0).sum())
