"""What a router kernel takes and gives, said without importing one.

Letters: T tokens, E experts, K top-k, B bins of the margins.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from evenload.workers.kernels.rows import Rows


class Gate(NamedTuple):
    """How logits become gate weights."""

    top_k: int
    softmax: bool  # else a sigmoid of each logit
    renormalise: bool  # the weights of a token sum to route_scale
    route_scale: float


class Route(NamedTuple):
    score_TE: Tensor  # float32, with gradient
    expert_TK: Tensor  # int64
    weight_TK: Tensor  # float32, with gradient
    count_E: Tensor  # int64
    rows: Rows
    margin_E2B: Tensor | None  # int64, chosen ones first; None without bins
