"""Times several arms in turn within one run and returns medians with their spread.

Arms take turns because clock and caches change during a run, which would favour one arm.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import torch

Call = Callable[[], object]
Name = TypeVar("Name")


class Timing(NamedTuple):
    """Median and quartiles over all turns, in seconds per call or another unit."""

    median: float
    low: float
    high: float


def in_turn(arms: Mapping[Name, Call], device: torch.device, turns: int) -> dict[Name, Timing]:
    """Timing of every arm. Each turn runs every arm; the first turn only compiles and tunes."""
    seconds = every_turn(arms, device, turns)
    return {name: timing(values) for name, values in seconds.items()}


def every_turn(
    arms: Mapping[Name, Call], device: torch.device, turns: int
) -> dict[Name, list[float]]:
    """Seconds of every turn per arm, so that arms can be compared within a turn."""
    seconds: dict[Name, list[float]] = {name: [] for name in arms}
    for turn in range(turns + 1):
        for name, call in arms.items():
            elapsed = seconds_of(call, device)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(call: Call, device: torch.device) -> float:
    """Seconds of one call. A GPU is timed with its own clock between two empty queues."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    torch.cuda.synchronize(device)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize(device)
    return start.elapsed_time(end) / 1e3


def timing(seconds: list[float]) -> Timing:
    if len(seconds) < 2:
        return Timing(*seconds * 3)
    low, _, high = statistics.quantiles(seconds, n=4)
    return Timing(statistics.median(seconds), low, high)


def replayed(call: Call, device: torch.device) -> Call:
    """The call as a CUDA graph, so that launches cost the host nothing; on a CPU the call itself.

    Raises: RuntimeError: the call waits for the device, so no graph can capture it. This is checked
            before the capture, because a failed capture breaks torch's allocator (2.11).
    """
    if device.type != "cuda":
        return call
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        call()  # compiles, tunes and allocates before the capture
        with no_waiting():
            call()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises: RuntimeError: the host waits for the device"""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
