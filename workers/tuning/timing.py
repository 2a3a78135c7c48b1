"""Times of several arms, taken in turn in one run: medians with their spread.

Turns, because whoever is measured second finds another clock and another cache than the first.
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
    """Seconds of one call, or another figure: the median of all turns, and its quartiles."""

    median: float
    low: float
    high: float


def in_turn(arms: Mapping[Name, Call], device: torch.device, turns: int) -> dict[Name, Timing]:
    """Every arm once, then every arm again; a first turn that compiles and tunes does not count."""
    seconds = every_turn(arms, device, turns)
    return {name: timing(values) for name, values in seconds.items()}


def every_turn(
    arms: Mapping[Name, Call], device: torch.device, turns: int
) -> dict[Name, list[float]]:
    """Seconds of each turn: what the machine does beside falls on neighbours of a turn alike."""
    seconds: dict[Name, list[float]] = {name: [] for name in arms}
    for turn in range(turns + 1):
        for name, call in arms.items():
            elapsed = seconds_of(call, device)
            if turn:
                seconds[name].append(elapsed)
    return seconds


def seconds_of(call: Call, device: torch.device) -> float:
    """On a GPU by its own clock, from an idle queue to an idle queue."""
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
    """The call as a CUDA graph, so that its launches cost the host nothing; itself on a CPU.

    Raises: RuntimeError: the call waits for the device, so no graph can hold it; said before a
            capture begins, for one that fails leaves torch's allocator (2.11) unfit for the next
    """
    if device.type != "cuda":
        return call
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        call()  # compiles, tunes and allocates outside of the capture
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
