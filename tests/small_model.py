"""The smallest model that the slow tests train."""

from __future__ import annotations

from typing import Any

SMALL_MODEL: dict[str, Any] = {
    "preset": "tiny",
    "vocab_size": 32,
    "num_layers": 2,
    "d_model": 32,
    "num_heads": 2,
    "d_dense": 64,
    "num_experts": 8,
    "d_expert": 16,
}
