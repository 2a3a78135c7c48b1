"""Energy that an attempt took, from the GPU's own counter."""

from __future__ import annotations

import logging

import torch

from evenload.pipeline.figures.cost import JOULES_PER_STEP

logger = logging.getLogger(__name__)


class EnergyMeter:
    """Joules that a device's GPU has drawn since the meter was made.

    The counter is the whole board's: what shares the GPU is counted too. None on a CPU, without
    NVML, and for GPUs without a counter (before Volta, slices of a partitioned one).

    Source: NVML API reference, nvmlDeviceGetTotalEnergyConsumption (millijoules since driver load)
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = _counter_joules(device)

    def joules(self) -> float | None:
        if self._start is None:
            return None
        now = _counter_joules(self._device)
        return None if now is None else now - self._start

    def per_step(self, steps: int) -> dict[str, float]:
        """A figure of a trial's result: the mean over so many steps; empty where none is known."""
        joules = self.joules()
        return {} if joules is None or steps <= 0 else {JOULES_PER_STEP: joules / steps}


def _counter_joules(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        # By UUID: CUDA_VISIBLE_DEVICES renumbers what torch sees, and NVML does not know of it.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError as error:
        logger.warning("no energy counter on %s: %s", device, error)
        return None
