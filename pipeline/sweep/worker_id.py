"""The id of a worker in the store: its name, host and process."""

from __future__ import annotations

import os
import socket


def worker_id(name: str) -> str:
    """The id `name@host:pid` of this process, with the name that its executor gave it."""
    return f"{name}@{socket.gethostname()}:{os.getpid()}"


def name_of(worker_id: str) -> str:
    return worker_id.partition("@")[0]


def is_dead_here(worker_id: str) -> bool:
    """Whether the worker ran on this host and its process has ended.

    False may also mean that it ran on another host or that another process has its number by now.
    Then only the lease tells.
    """
    host, _, pid = worker_id.partition("@")[2].rpartition(":")
    return host == socket.gethostname() and pid.isdecimal() and not _is_running(int(pid))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
