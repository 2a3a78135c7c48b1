"""Which trials train together as one program, and how many at once.

A stack saves what a step costs beside its arithmetic: launches and dispatch. Whether that is much
depends on how small the arithmetic is, so the rule below rests on measurements.
"""

from __future__ import annotations

from typing import Any

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.spec_file import sha256
from evenload.pipeline.spec.trial import TrialSpec

# Rules that a stack cannot hold: experts that choose have rows of another form, routers that are
# frozen have no gradient where others have one, and draws come from the process's generator.
APART = frozenset({"expert_choice", "frozen_router", "random_router"})

# Values of one activation (tokens of a micro-batch times width) up to which a stack is faster.
# `evenload bench training` on one core of a Xeon, tiny, 8 trials: time stacked over time apart 0.49
# at 2^13 values, 0.69 at 2^15, 0.82 at 2^16, 0.87 at 2^17, 0.95 at 2^18, where caches lose what
# dispatch gains. The limits for a GPU are not measured.
LARGEST_ACTIVATION = {"cpu": 2**17, "cuda": 2**22}
LARGEST_STACK = {"cpu": 8, "cuda": 32}
ROOM_BYTES = {"cpu": 2**30, "cuda": 2**34}  # of a stack: weights, moments and activations


def shape_of(spec: TrialSpec) -> str:
    """Equal for trials that differ in balancing rule, step size and seed alone."""
    differing: dict[str, Any] = {"balancer": True, "train": {"seed"}}
    return sha256(spec.model_dump(mode="json", exclude=differing))[:16]


def can_stack(spec: TrialSpec) -> bool:
    """A stack can train it, alone or beside others of its shape."""
    train, runtime = spec.train, spec.runtime
    return (
        spec.balancer.kind not in APART
        and runtime.backend == "torch"
        and runtime.workers == 1
        and not (train.compile or train.recompute)
        and spec.extends is None
        and spec.eval.every_steps is None
    )


def stack_size(spec: TrialSpec, untrained: int, slots: int) -> int:
    """How many trials of this shape one worker should train together; 1 is alone.

    Args:
        untrained: trials of this shape that wait or are being trained, this one included
        slots:     workers that may train at once: none should idle for a larger stack
    """
    device = spec.runtime.device
    values = spec.train.tokens_per_step // spec.train.num_micro_batches * spec.model.d_model
    if not can_stack(spec) or values > LARGEST_ACTIVATION[device]:
        return 1
    room = ROOM_BYTES[device] // model_size(spec.model).train_memory_bytes(spec.train)
    share = -(-untrained // slots)
    return max(1, min(share, LARGEST_STACK[device], room))
