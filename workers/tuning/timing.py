"""Times several arms in turn within one run and returns medians with their spread.

Arms take turns because clock and caches change during a run, which would favour one arm.
"""

import statistics
import time
from collections.abc import Callable, Mapping
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
