"""Measures the energy of an attempt with the GPU's own counter."""

import logging

import torch

from evenload.pipeline.figures.cost import JOULES_PER_STEP

logger = logging.getLogger(__name__)


class EnergyMeter:
    """Measures the energy that a GPU has used since the meter was made.

    The counter covers the whole board, including other programs on it. There is no figure for a
    CPU, without NVML, or for a GPU without a counter (before Volta, or a slice of a GPU).

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
        """Joules per step as a figure of a trial's result; empty if unknown."""
        joules = self.joules()
        return {} if joules is None or steps <= 0 else {JOULES_PER_STEP: joules / steps}


def _counter_joules(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        # By UUID, because CUDA_VISIBLE_DEVICES changes torch's numbering but not NVML's.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    except pynvml.NVMLError as error:
        logger.warning("no energy counter on %s: %s", device, error)
        return None
