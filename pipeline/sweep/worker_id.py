"""The id of a worker in the store: its name and its process."""

from evenload.pipeline.processes import is_running, process_id


def worker_id(name: str) -> str:
    """The id `name@process` of this process, with the name that its executor gave it."""
    return f"{name}@{process_id()}"


def name_of(worker_id: str) -> str:
    return worker_id.partition("@")[0]


def is_dead_here(worker_id: str) -> bool:
    """Whether the worker's process ran on this machine and has ended.

    False may also mean that it ran on another machine. Then only the lease tells.
    """
    return is_running(worker_id.partition("@")[2]) is False
