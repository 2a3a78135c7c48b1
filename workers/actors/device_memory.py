"""Compares the memory that trials need with the memory of this machine."""

import os
from collections.abc import Iterable

from evenload.pipeline.errors import DeviceBusy, SpecError
from evenload.pipeline.figures.memory import memory_bytes, misfit
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.host_memory import host_bytes


def available_bytes(device: str) -> int:
    """Memory of the GPU that no other program has, or total memory of the host or container."""
    if device == "cuda":
        import torch

        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # by torch, unused
        return int(torch.cuda.mem_get_info()[0]) + kept
    return host_bytes()


def misfit_here(spec: TrialSpec) -> str | None:
    """The reason with remedy why the resolved trial cannot run here, or None if it can."""
    ranks = spec.runtime.workers if spec.runtime.device == "cpu" else 1  # on one host
    if problem := misfit(spec, available_bytes(spec.runtime.device) // ranks):
        each = f" for each of its {ranks} workers" if ranks > 1 else ""
        return f"{spec.balancer.label} with {spec.model.num_experts} experts {problem}{each}"
    return None


def check_memory(spec: TrialSpec) -> None:
    """Raises: SpecError: the resolved trial does not fit here; DeviceBusy: it would fit alone"""
    if problem := misfit_here(spec):
        raise (DeviceBusy if _fits_alone(spec) else SpecError)(problem)


def _fits_alone(spec: TrialSpec) -> bool:
    """Whether the GPU would be large enough for the trial without other programs."""
    if spec.runtime.device == "cpu":
        return False
    import torch

    return misfit(spec, int(torch.cuda.mem_get_info()[1])) is None


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
