"""A labelled mixture of domains, each with its own bigrams, for tests of specialisation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.spec.data import Synthetic
from evenload.workers.data.shards import TokenArray, token_type

DOCUMENT_TOKENS = 256
SUCCESSORS = 4


def synthetic_documents(spec: Synthetic) -> tuple[TokenArray, NDArray[np.int64]]:
    """Documents of equal length and the domain of each. Shapes (N, DOCUMENT_TOKENS), (N,).

    In a domain every token has `SUCCESSORS` equally likely successors. Domains have different
    successors, so two tokens show the domain of a document.
    """
    rng = np.random.default_rng(spec.seed)
    num_documents = max(2, spec.num_tokens // DOCUMENT_TOKENS)
    successor_table = rng.integers(
        spec.vocab_size, size=(spec.num_domains, spec.vocab_size, SUCCESSORS)
    )
    domain_N = rng.integers(spec.num_domains, size=num_documents)
    token_N = rng.integers(spec.vocab_size, size=num_documents)
    document_NT = np.empty((num_documents, DOCUMENT_TOKENS), dtype=token_type(spec.vocab_size))
    for position in range(DOCUMENT_TOKENS):
        document_NT[:, position] = token_N
        choice_N = rng.integers(SUCCESSORS, size=num_documents)
        token_N = successor_table[domain_N, token_N, choice_N]
    return document_NT, domain_N
