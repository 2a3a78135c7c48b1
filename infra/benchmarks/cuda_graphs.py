"""CUDA graphs of calls, so that a benchmark can leave out the time of launches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evenload.workers.tuning.timing import Call


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
