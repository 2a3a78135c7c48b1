"""Writes files as other programs write them, from routes that are known exactly.

Letters: S steps, L layers, T tokens, K top-k, E experts, P physical experts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXPERTS, TOP_K = 8, 2


def routes(steps: int = 3, layers: int = 2, tokens: int = 10, seed: int = 0) -> NDArray[np.int64]:
    """(S, L, T, K): distinct experts for every token. The last expert is never chosen."""
    score = np.random.default_rng(seed).random((steps, layers, tokens, EXPERTS - 1))
    return np.argsort(-score, axis=-1)[..., :TOP_K]


def counted(expert_SLTK: NDArray[np.int64], experts: int = EXPERTS) -> NDArray[np.int64]:
    """The counts, one assignment at a time."""
    count_SLE = np.zeros((*expert_SLTK.shape[:2], experts), np.int64)
    for step, layer, token, k in np.ndindex(expert_SLTK.shape):
        count_SLE[step, layer, expert_SLTK[step, layer, token, k]] += 1
    return count_SLE


def bfloat16(value: NDArray[Any]) -> NDArray[np.float32]:
    """Rounded down to what bfloat16 can hold."""
    return (value.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def megatron_trace(
    folder: Path,
    expert_SLTK: NDArray[np.int64],
    logit_SLTE: NDArray[np.float32] | None = None,
    rank: int = 0,
    first_step: int = 0,
    micro_batches: int = 2,
) -> Path:
    """router_trace_rank<rank>.jsonl, and with logits logits_rank<rank>.bin beside it.

    Layers come in reverse order, as the last layers of a pipeline stage may; layer 0 is dense.
    """
    lines, sidecar = [], b""
    for step, layer_LTK in enumerate(expert_SLTK):
        for part in range(micro_batches):
            for layer in reversed(range(len(layer_LTK))):
                tokens = np.array_split(np.arange(expert_SLTK.shape[2]), micro_batches)[part]
                record: dict[str, Any] = {
                    "step": first_step + step,
                    "stage": "pre_dispatch",
                    "block": "decoder",
                    "layer": layer + 1,
                    "rank": rank,
                    "num_tokens": len(tokens),
                    "topk": expert_SLTK.shape[3],
                    "top_indices": layer_LTK[layer, tokens].tolist(),
                }
                if logit_SLTE is not None:
                    values = logit_SLTE[step, layer, tokens].astype(np.float32)
                    content = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
                    record["logit_offset"] = len(sidecar)
                    record["logit_bytes"] = len(content)
                    record["logit_shape"] = list(values.shape)
                    sidecar += content
                lines.append(json.dumps(record) + "\n")
    path = folder / f"router_trace_rank{rank}.jsonl"
    path.write_text("".join(lines))
    if logit_SLTE is not None:
        (folder / f"logits_rank{rank}.bin").write_bytes(sidecar)
    return path


def sglang_stat(expert_SLTK: NDArray[np.int64], ring: int) -> dict[str, Any]:
    """What mode stat dumps: a ring of `ring` steps, and a dense layer first."""
    count_SLE = counted(expert_SLTK)
    logical = np.zeros((ring, count_SLE.shape[1] + 1, EXPERTS), np.int32)
    logical[: len(count_SLE), 1:] = count_SLE
    return {"rank": 0, "logical_count": logical, "average_utilization_rate_over_window": None}


def physical_map(layers: int, physical: int = EXPERTS + 4) -> NDArray[np.int64]:
    """(L, P): every logical expert has a replica, four have two, in another order by layer."""
    rng = np.random.default_rng(1)
    spare = [*range(EXPERTS), *range(physical - EXPERTS)]
    return np.array([rng.permutation(spare) for _ in range(layers)])


def sglang_records(
    expert_SLTK: NDArray[np.int64], logical_LP: NDArray[np.int64], by_token: bool, rank: int = 0
) -> dict[str, Any]:
    """What modes per_token and per_pass dump; a logical expert's tokens go to any replica."""
    rng = np.random.default_rng(rank)
    records = []
    for step, layer_LTK in enumerate(expert_SLTK):
        physical_LTK = np.full((*layer_LTK.shape[:2], 8), -1, np.int32)
        for layer, token, k in np.ndindex(layer_LTK.shape):
            replicas = np.flatnonzero(logical_LP[layer] == layer_LTK[layer, token, k])
            physical_LTK[layer, token, k] = rng.choice(replicas)
        record = {"forward_pass_id": 40 + step, "rank": rank, "gatherer_key": "primary"}
        record["global_physical_count"] = np.array(
            [
                np.bincount(each[each >= 0], minlength=logical_LP.shape[1])
                for each in physical_LTK.reshape(len(physical_LTK), -1)
            ],
            np.int32,
        )
        if by_token:
            tokens = list(range(layer_LTK.shape[1]))
            record |= {"input_ids": tokens, "positions": tokens, "forward_mode": 1}
            record |= {"topk_ids_of_layer": physical_LTK, "misc_objects": []}
        records.append(record)
    return {"records": records, "last_physical_to_logical_map": logical_LP}
