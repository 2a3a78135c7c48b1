"""Reads what other programs recorded of their experts, each format in a file of its own.

To add a format: write a file with a function that returns a `Recorded`, and name it here.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from evenload.pipeline.records.imports import counts_npz, megatron, routed_experts, rows, sglang
from evenload.pipeline.records.imports.recorded import Asked, Recorded


class Format(NamedTuple):
    read: Callable[[Sequence[Path], Asked], Recorded]
    content: str  # what the files are, and how a user gets them


FORMATS = {
    "megatron": Format(
        megatron.read,
        "router_trace_rank*.jsonl of --moe-routing-trace-path, one per data-parallel rank; with "
        "--moe-routing-trace-capture-logits also logits_rank*.bin in the same folder",
    ),
    "sglang": Format(
        sglang.read,
        "expert_distribution_recorder_*.pt of --expert-distribution-recorder-mode stat, per_pass "
        "or per_token, of all ranks",
    ),
    "routed_experts": Format(
        routed_experts.read,
        "one .npy per request, integers (tokens, layers, top-k): `routed_experts` of vLLM, or the "
        "decoded base64 of SGLang",
    ),
    "npz": Format(
        counts_npz.read,
        "counts per step in .npz: `count_SLE`, or one array (steps, experts) per layer whose name "
        "holds `tokens_per_expert`, as torchtitan names it",
    ),
    "parquet": Format(
        rows.read, "one row per step and layer with the columns `step`, `layer` and `load` (a list)"
    ),
}
