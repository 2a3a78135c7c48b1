from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from evenload.pipeline.errors import DeviceBusy, SpecError
from evenload.pipeline.figures.memory import memory_bytes
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers import host_memory
from evenload.workers.actors.device_memory import (
    available_bytes,
    check_memory,
    misfit_here,
    slots_in_memory,
)

SPEC = TrialSpec.model_validate(
    {
        "model": {"preset": "tiny"},
        "balancer": {"kind": "sign"},
        "train": {"steps": 2, "batch_sequences": 8, "seq_len": 128},
        "runtime": {"device": "cpu", "backend": "torch"},
    }
)


def test_the_limit_of_a_container_counts_instead_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(host_memory, "LIMITS", (limit, tmp_path / "absent"))
    assert available_bytes("cpu") == psutil.virtual_memory().total
    limit.write_text("max\n")
    assert available_bytes("cpu") == psutil.virtual_memory().total
    limit.write_text("734003200\n")
    assert available_bytes("cpu") == 700 * 2**20


def test_a_trial_that_does_not_fit_is_refused_with_its_name_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_memory(SPEC)
    limit = tmp_path / "memory.max"
    limit.write_text(str(600 * 2**20))
    monkeypatch.setattr(host_memory, "LIMITS", (limit,))
    with pytest.raises(SpecError, match=r"sign 0.001 with 16 experts needs about 0.7 GiB"):
        check_memory(SPEC)


def test_fewer_trials_than_cores_train_at_once_if_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(host_memory, "LIMITS", (limit,))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    limit.write_text(str(int(2.5 * memory_bytes(SPEC))))
    assert slots_in_memory([SPEC]) == 2
    limit.write_text(str(9 * memory_bytes(SPEC)))
    assert slots_in_memory([SPEC]) is None
    limit.write_text(str(memory_bytes(SPEC) // 2))
    assert slots_in_memory([SPEC]) == 1


def test_every_worker_of_a_group_needs_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(host_memory, "LIMITS", (limit,))
    limit.write_text(str(3 * memory_bytes(SPEC)))
    assert misfit_here(SPEC) is None
    runtime = SPEC.runtime.model_copy(update={"workers": 4})
    problem = misfit_here(SPEC.model_copy(update={"runtime": runtime}))
    assert problem is not None
    assert "for each of its 4 workers" in problem


@pytest.mark.parametrize(("free", "total", "error"), [(1, 80, DeviceBusy), (1, 1, SpecError)])
def test_memory_that_others_have_on_the_gpu_is_not_available(
    free: int, total: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {"model": {"preset": "small"}, "runtime": {"device": "cuda", "backend": "torch"}}
    spec = TrialSpec.model_validate(SPEC.model_dump(mode="json") | large)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (80 * 2**30, 80 * 2**30))
    check_memory(spec)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free * 2**30, total * 2**30))
    with pytest.raises(error, match=r"the GPU has 1\.0 GiB free") as raised:
        check_memory(spec)
    assert raised.type is error
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 79 * 2**30)
    check_memory(spec)
