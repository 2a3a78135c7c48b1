"""Names processes such that this machine can tell whether a named one runs, and ends orphans."""

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path

PROC = Path("/proc")
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def process_id() -> str:
    """`host:machine:start:pid` of this process, unlike that of any other process anywhere.

    Containers may share a host name and number their processes alike, and a number is given to
    another process later. So the machine is a digest of the boot and the process namespace, and
    the start is in clock ticks after the boot.
    """
    return f"{socket.gethostname()}:{_machine()}:{_start(os.getpid())}:{os.getpid()}"


def is_running(process_id: str) -> bool | None:
    """Whether the process still runs; None if that cannot be told, as from another machine."""
    _, _, rest = process_id.partition(":")
    machine, _, rest = rest.partition(":")
    start, _, pid = rest.partition(":")
    if machine != _machine() or not pid.isdecimal():
        return None
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return None
    return _start(int(pid)) == start


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Sends this process the signal once the thread that started it has ended, even by SIGKILL.

    Call it first thing in the child. Only Linux does it; elsewhere this does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        starter = multiprocessing.parent_process()
        if starter is not None and starter.pid != os.getppid():  # it ended before the call
            os.kill(os.getpid(), number)


@cache
def _machine() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text()
        namespace = os.readlink(PROC / "self/ns/pid")
    except OSError:  # not Linux: a process is then only known to itself
        boot = namespace = os.urandom(8).hex()
    return sha256(f"{boot} {namespace}".encode()).hexdigest()[:8]


def _start(pid: int) -> str:
    """The start of a process; empty if it has ended, also while its parent has not noticed."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
