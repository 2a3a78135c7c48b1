"""Tells whether a trial fits into a worker's memory, and which change would make it fit."""

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import TrialSpec

GIB = 2**30
# Memory beside that of the trial. CPU: a process with torch, Ray and MLflow takes 0.65 to 0.70 GiB
# (torch 2.13, Linux). GPU: the CUDA context and the workspaces of libraries; not measured.
FRAMEWORK_BYTES = {"cpu": int(0.7 * GIB), "cuda": GIB}


def memory_bytes(spec: TrialSpec) -> int:
    """Peak memory of each worker of a resolved trial: weights, AdamW, activations, framework."""
    share = spec.train.batch_sequences // spec.runtime.workers
    micro = min(spec.train.micro_batch_sequences or share, share)
    one_pass = {"batch_sequences": micro, "micro_batch_sequences": None}
    trained = model_size(spec.model).train_memory_bytes(spec.train.model_copy(update=one_pass))
    return FRAMEWORK_BYTES[spec.runtime.device] + trained


def misfit(spec: TrialSpec, available_bytes: int) -> str | None:
    """Why a resolved trial does not fit into this memory, and a remedy; None if it fits."""
    needed = memory_bytes(spec)
    if needed <= available_bytes:
        return None
    room = _gib(available_bytes)
    has = f"the GPU has {room} free" if spec.runtime.device == "cuda" else f"the host has {room}"
    return f"needs about {_gib(needed)} of memory, {has}; {_remedy(spec, available_bytes)}"


def _remedy(spec: TrialSpec, available_bytes: int) -> str:
    """The smallest change that fits. Micro-batches come first, because they change no result."""
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
        f"no micro-batch is small enough, because {size.parameters / 1e6:,.0f}M parameters with "
        "gradients and AdamW fill it; choose a smaller model or a larger device"
    )


def _gib(count: int) -> str:
    return f"{count / GIB:,.1f} GiB"
