"""A worker's id in the store: its name, and where it can be seen to be dead."""

from __future__ import annotations

import os
import socket


def worker_id(name: str) -> str:
    """The id of this process under the name that its executor gave it: `name@host:pid`."""
    return f"{name}@{socket.gethostname()}:{os.getpid()}"


def name_of(worker_id: str) -> str:
    return worker_id.partition("@")[0]


def is_dead_here(worker_id: str) -> bool:
    """The worker ran on this host and its process is gone.

    False is no statement: it may run elsewhere, or another process may have its number. The lease
    decides then.
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
