"""Names the device that computes."""

import platform
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")


def device_name(device: str) -> str:
    """The model of the GPU or of the processor."""
    return torch.cuda.get_device_name(device) if device == "cuda" else _processor()


def _processor() -> str:
    """The kernel's name of the processor, because `platform.processor` is empty on Linux."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
