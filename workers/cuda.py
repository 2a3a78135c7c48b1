"""Tells whether this process can use a GPU, without importing torch if there is no driver."""

import sys
from functools import cache
from pathlib import Path

# Files in /dev of the drivers of NVIDIA (including Jetson and WSL) and AMD.
DEVICES = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")


def has_cuda() -> bool:
    """The result of `torch.cuda.is_available`, or False without importing torch if no driver is
    installed."""
    if sys.platform == "linux" and not has_driver(Path("/dev")):
        return False
    import torch

    return torch.cuda.is_available()


@cache
def has_driver(devices: Path) -> bool:
    return any(any(devices.glob(pattern)) for pattern in DEVICES)
