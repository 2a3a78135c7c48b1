"""Compares the memory that trials need with the memory of this machine."""

import os
from collections.abc import Iterable

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.memory import memory_bytes, misfit
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.host_memory import host_bytes


def available_bytes(device: str) -> int:
    """Total memory of the GPU, or of the host or container."""
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[1])
    return host_bytes()


def misfit_here(spec: TrialSpec) -> str | None:
    """The reason with remedy why the resolved trial cannot run here, or None if it can."""
    ranks = spec.runtime.workers if spec.runtime.device == "cpu" else 1  # on one host
    if problem := misfit(spec, available_bytes(spec.runtime.device) // ranks):
        each = f" for each of its {ranks} workers" if ranks > 1 else ""
        return f"{spec.balancer.label} with {spec.model.num_experts} experts {problem}{each}"
    return None


def check_memory(spec: TrialSpec) -> None:
    """Raises: SpecError: the resolved trial does not fit here"""
    if problem := misfit_here(spec):
        raise SpecError(problem)


def slots_in_memory(trials: Iterable[TrialSpec]) -> int | None:
    """Number of these trials that fit into memory together; None if cores or GPUs are the limit."""
    on_cpu = [trial for trial in trials if trial.runtime.device == "cpu"]
    if not on_cpu:
        return None
    largest = max(memory_bytes(trial) * trial.runtime.workers for trial in on_cpu)
    room = max(1, available_bytes("cpu") // largest)
    cores = len(os.sched_getaffinity(0))
    threads = max(trial.runtime.threads * trial.runtime.workers for trial in on_cpu)
    return room if room < cores // threads else None
