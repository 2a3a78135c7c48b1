"""Tells which trials can train together as one program (a stack)."""

from typing import Any

from evenload.pipeline.spec.spec_file import sha256
from evenload.pipeline.spec.trial import TrialSpec

# Rules that cannot be stacked: expert choice routes in another shape, frozen routers lack the
# gradient that other routers have, and random routers draw from the process's generator.
UNSTACKABLE = frozenset({"expert_choice", "frozen_router", "random_router"})


def stack_shape(spec: TrialSpec) -> str | None:
    """A hash that trials share if they can train in one stack; None if the trial trains alone."""
    return shape_of(spec) if can_stack(spec) else None


def shape_of(spec: TrialSpec) -> str:
    """A hash that is equal for trials that differ only in balancing rule, step size and seed."""
    differing: dict[str, Any] = {"balancer": True, "train": {"seed"}}
    return sha256(spec.model_dump(mode="json", exclude=differing))[:16]


def can_stack(spec: TrialSpec) -> bool:
    """Whether the trial can train in a stack with others of its shape."""
    train, runtime = spec.train, spec.runtime
    return (
        spec.model.kind == "own"
        and spec.balancer.kind not in UNSTACKABLE
        and runtime.backend == "torch"
        and runtime.workers == 1
        and not (train.compile or train.recompute)
        and spec.extends is None
        and spec.eval.every_steps is None
    )
