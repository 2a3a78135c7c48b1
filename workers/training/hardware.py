"""Where a figure was measured: device, versions and commit, for every benchmark's document."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from evenload.workers.training.identity import source_commit

PACKAGES = ("torch", "triton", "transformers", "ray", "mlflow")


def where() -> dict[str, Any]:
    """The machine and the code. `load` is the one-minute load average: above 1 a core, doubt."""
    return {
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": source_commit(),
    }


def device_name(device: str) -> str:
    """The model of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if device == "cuda" else _processor()


def _processor() -> str:
    """The kernel's name of it; `platform.processor` is empty on Linux."""
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    )
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
