"""Describes the machine and the code of a measurement. Every benchmark records it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from evenload.workers.training.hardware import device_name
from evenload.workers.training.identity import source_commit

PACKAGES = ("torch", "triton", "transformers", "ray", "mlflow")


def describe_machine() -> dict[str, Any]:
    """`load` is the one-minute load average; above 1 per core a measurement is not reliable."""
    return {
        "device": device_name("cuda" if torch.cuda.is_available() else "cpu"),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": source_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
