from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training import checkpoint
from evenload.workers.training.setup import Assembly, assemble


@pytest.fixture
def assembly(make_spec: Callable[..., TrialSpec]) -> Assembly:
    return assemble(make_spec())


def captured(assembly: Assembly, step: int) -> checkpoint.Checkpoint:
    trainee = assembly.trainee
    return checkpoint.capture(step, trainee.model, trainee.optimizer, assembly.state)


def test_a_loaded_checkpoint_equals_the_saved_one(assembly: Assembly, tmp_path: Path) -> None:
    saved = captured(assembly, 3)
    loaded = checkpoint.load(checkpoint.save(tmp_path, saved), torch.device("cpu"))
    assert loaded.step == 3
    assert torch.equal(loaded.cpu_rng, saved.cpu_rng)
    assert loaded.balancer["bias_LE"].dtype is torch.float32
    for name, tensor in saved.model.items():
        assert torch.equal(tensor, loaded.model[name]), name


def test_a_half_written_checkpoint_is_ignored(assembly: Assembly, tmp_path: Path) -> None:
    complete = checkpoint.save(tmp_path, captured(assembly, 3))
    (tmp_path / "step-00000009.77.tmp").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) == complete


def test_an_interrupted_write_leaves_the_previous_checkpoint(
    assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete = checkpoint.save(tmp_path, captured(assembly, 3))

    def cut_off(content: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("killed")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(OSError, match="killed"):
        checkpoint.save(tmp_path, captured(assembly, 9))
    assert checkpoint.newest(tmp_path) == complete
    assert checkpoint.load(complete, torch.device("cpu")).step == 3


def test_all_but_the_newest_two_checkpoints_are_deleted(assembly: Assembly, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, captured(assembly, step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002.pt",
        "step-00000003.pt",
    ]


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (print, ("owned",))

    torch.save({"step": Evil()}, tmp_path / "step-00000001.pt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(tmp_path / "step-00000001.pt", torch.device("cpu"))
