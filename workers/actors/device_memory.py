"""How much memory a trial may use here."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from pipeline.errors import SpecError
from pipeline.fit import misfit
from pipeline.spec import TrialSpec

# Of control groups, version 2 and 1: what a container may use, whatever its host has.
LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def available_bytes(device: str) -> int:
    """All memory of the GPU, or of the host or container."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[1])
    return min([psutil.virtual_memory().total, *_limits()])


def check_memory(spec: TrialSpec) -> None:
    """Raises: SpecError: the resolved trial does not fit here; with figures and a remedy"""
    if problem := misfit(spec, available_bytes(spec.runtime.device)):
        raise SpecError(f"{spec.balancer.label} with {spec.model.num_experts} experts {problem}")


def _limits() -> list[int]:
    found = []
    for path in LIMITS:
        text = path.read_text().strip() if path.exists() else "max"
        if text.isdigit():
            found.append(int(text))
    return found
