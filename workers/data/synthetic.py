"""A labelled mixture of domains, each with its own bigrams, for tests of specialisation."""

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.data import Synthetic
from evenload.workers.data.shards import TokenArray, token_type
from evenload.workers.host_memory import host_bytes

DOCUMENT_TOKENS = 256
SUCCESSORS = 4


def synthetic_documents(spec: Synthetic) -> tuple[TokenArray, NDArray[np.int64]]:
    """Documents of equal length and the domain of each. Shapes (N, DOCUMENT_TOKENS), (N,).

    In a domain every token has `SUCCESSORS` equally likely successors. Domains have different
    successors, so two tokens show the domain of a document.

    Raises:   SpecError: they do not fit into memory
    """
    num_documents = max(2, spec.num_tokens // DOCUMENT_TOKENS)
    _check_memory(spec, num_documents)
    rng = np.random.default_rng(spec.seed)
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


def _check_memory(spec: Synthetic, num_documents: int) -> None:
    tables = 8 * spec.num_domains * spec.vocab_size * SUCCESSORS
    token_bytes = np.dtype(token_type(spec.vocab_size)).itemsize
    # The documents, a copy of them in the order of the corpus, and the choices per document.
    needed = tables + num_documents * (2 * DOCUMENT_TOKENS * token_bytes + 4 * 8)
    if needed > host_bytes():
        raise SpecError(
            f"data.num_tokens={spec.num_tokens}, num_domains={spec.num_domains} and "
            f"vocab_size={spec.vocab_size} need {needed / 2**30:,.0f} GiB of memory, and this "
            f"machine has {host_bytes() / 2**30:,.0f}; lower them"
        )
