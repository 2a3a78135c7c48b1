"""Decides how many trials train together as one program (a stack).

A stack saves kernel launches and dispatch. How much that is depends on the size of the arithmetic,
so the limits below come from measurements.
"""

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.stacking import can_stack
from evenload.pipeline.spec.trial import TrialSpec

# Largest activation (tokens of a micro-batch times width) for which a stack is faster. Measured by
# `evenload bench training` on one core of a Xeon, preset tiny, 8 trials: the time stacked over the
# time apart is 0.49 at 2^13 values, 0.69 at 2^15, 0.82 at 2^16, 0.87 at 2^17 and 0.95 at 2^18,
# where cache misses cost as much as dispatch saves. The limits for a GPU are not measured.
LARGEST_ACTIVATION = {"cpu": 2**17, "cuda": 2**22}
LARGEST_STACK = {"cpu": 8, "cuda": 32}
ROOM_BYTES = {"cpu": 2**30, "cuda": 2**34}  # for a stack's weights, moments and activations


def stack_size(spec: TrialSpec, untrained: int, slots: int) -> int:
    """How many trials of this shape one worker should train together; 1 means no stack.

    Args:
        untrained: number of trials of this shape that wait or are being trained, with this one
        slots:     number of workers that may train at once; a larger stack must leave none idle
    """
    device = spec.runtime.device
    if not can_stack(spec):
        return 1
    tokens = spec.train.tokens_per_step // spec.train.num_micro_batches
    if tokens * spec.own_model.d_model > LARGEST_ACTIVATION[device]:
        return 1
    room = ROOM_BYTES[device] // model_size(spec.model).train_memory_bytes(spec.train)
    share = -(-untrained // slots)
    return max(1, min(share, LARGEST_STACK[device], room))
