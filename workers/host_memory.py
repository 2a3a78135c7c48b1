"""The memory of this machine, or of the container that evenload runs in."""

from pathlib import Path

import psutil

# Memory limits of a container, from control groups version 2 and 1.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def host_bytes() -> int:
    """Total memory of the host or container."""
    return min([psutil.virtual_memory().total, *_limits()])


def _limits() -> list[int]:
    found = []
    for path in LIMITS:
        text = path.read_text().strip() if path.exists() else "max"
        if text.isdigit():
            found.append(int(text))
    return found
