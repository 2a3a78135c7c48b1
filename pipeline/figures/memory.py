"""Does a trial fit into a worker's memory, and what would make it fit."""

from __future__ import annotations

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import TrialSpec

GIB = 2**30
# Beside the trial itself. CPU: 0.65 to 0.70 GiB of a process with torch, Ray and MLflow (torch
# 2.13, Linux). GPU: the CUDA context and the workspaces of its libraries; not measured.
FRAMEWORK_BYTES = {"cpu": int(0.7 * GIB), "cuda": GIB}


def memory_bytes(spec: TrialSpec) -> int:
    """Of each worker of a resolved trial, at its peak: weights, AdamW, activations, framework."""
    share = spec.train.batch_sequences // spec.runtime.workers
    micro = min(spec.train.micro_batch_sequences or share, share)
    one_pass = {"batch_sequences": micro, "micro_batch_sequences": None}
    trained = model_size(spec.model).train_memory_bytes(spec.train.model_copy(update=one_pass))
    return FRAMEWORK_BYTES[spec.runtime.device] + trained


def misfit(spec: TrialSpec, available_bytes: int) -> str | None:
    """Why a resolved trial cannot run in this memory, with figures and a remedy; None: it can."""
    needed = memory_bytes(spec)
    if needed <= available_bytes:
        return None
    has = "the GPU has" if spec.runtime.device == "cuda" else "the host has"
    return (
        f"needs about {_gib(needed)} of memory, {has} {_gib(available_bytes)}; "
        f"{_remedy(spec, available_bytes)}"
    )


def _remedy(spec: TrialSpec, available_bytes: int) -> str:
    """The least change that fits: smaller micro-batches first, they change no number."""
    batch = spec.train.batch_sequences
    for recompute in (spec.train.recompute, True):
        for micro in sorted((n for n in range(1, batch) if batch % n == 0), reverse=True):
            changed = {"micro_batch_sequences": micro, "recompute": recompute}
            smaller = spec.model_copy(update={"train": spec.train.model_copy(update=changed)})
            needed = memory_bytes(smaller)
            if needed <= available_bytes:
                also = ", train.recompute=true" if recompute and not spec.train.recompute else ""
                return f"train.micro_batch_sequences={micro}{also} needs about {_gib(needed)}"
    size = model_size(spec.model)
    return (
        f"no micro-batch is small enough: its {size.parameters / 1e6:,.0f}M parameters with "
        "gradients and AdamW alone fill it; take a smaller model or a larger device"
    )


def _gib(count: int) -> str:
    return f"{count / GIB:,.1f} GiB"
