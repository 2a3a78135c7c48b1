"""Whether this process can use a GPU, asked without importing torch where there is no driver."""

from __future__ import annotations

import sys
from pathlib import Path

# What the drivers of NVIDIA (also Jetson, also below Windows) and AMD put into /dev.
DEVICES = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")


def has_cuda() -> bool:
    """What `torch.cuda.is_available` says; torch is asked only where a driver is."""
    if sys.platform == "linux" and not has_driver(Path("/dev")):
        return False
    import torch

    return torch.cuda.is_available()


def has_driver(devices: Path) -> bool:
    return any(any(devices.glob(pattern)) for pattern in DEVICES)
