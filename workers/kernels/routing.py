"""The input and output types of a router kernel, which need no kernel to import.

Letters: T tokens, E experts, K top-k, B bins of the margins.
"""

from typing import NamedTuple

from torch import Tensor

from evenload.workers.kernels.rows import Rows


class Gate(NamedTuple):
    """How logits become gate weights."""

    top_k: int
    softmax: bool  # False: a sigmoid of each logit
    renormalise: bool  # True: the weights of a token sum to route_scale
    route_scale: float


class Route(NamedTuple):
    score_TE: Tensor  # float32, with gradient
    expert_TK: Tensor  # int64
    weight_TK: Tensor  # float32, with gradient
    count_E: Tensor  # int64
    rows: Rows
    margin_E2B: Tensor | None  # int64, chosen tokens first; None if no bins were given
