from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evenload.workers.actors.energy import EnergyMeter

GPU = torch.device("cuda")


class NVMLError(Exception):
    pass


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A GPU whose counter the test sets, found by the UUID that torch reports."""
    state = SimpleNamespace(millijoules=5_000_000, works=True)

    def total(handle: str) -> int:
        assert handle == "handle of GPU-abc"
        if not state.works:
            raise NVMLError("Not Supported")
        return int(state.millijoules)

    nvml: Any = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: f"handle of {uuid}",
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="abc")
    )
    return state


def test_joules_are_those_since_the_meter_was_made(counter: SimpleNamespace) -> None:
    meter = EnergyMeter(GPU)
    counter.millijoules += 12_500
    assert meter.joules() == 12.5
    counter.millijoules += 12_500
    assert meter.joules() == 25.0


def test_a_result_gets_the_mean_of_its_steps(counter: SimpleNamespace) -> None:
    meter = EnergyMeter(GPU)
    counter.millijoules += 12_000
    assert meter.per_step(4) == {"joules_per_step": 3.0}
    assert meter.per_step(0) == {}
    counter.works = False
    assert meter.per_step(4) == {}


def test_a_gpu_without_a_counter_is_not_measured(counter: SimpleNamespace) -> None:
    counter.works = False
    assert EnergyMeter(GPU).joules() is None
    counter.works = True
    meter = EnergyMeter(GPU)
    counter.works = False
    assert meter.joules() is None


def test_a_cpu_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would raise
    assert EnergyMeter(torch.device("cpu")).joules() is None
