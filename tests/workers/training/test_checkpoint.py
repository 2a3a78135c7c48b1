from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from evenload.pipeline.errors import LeaseLost
from evenload.pipeline.records.fence import Fence
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
    loaded = checkpoint.load(checkpoint.save(tmp_path, saved))
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

    def cut_off(content: object, staging: Path) -> None:
        staging.write_bytes(b"half")
        raise OSError("killed")

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(OSError, match="killed"):
        checkpoint.save(tmp_path, captured(assembly, 9))
    assert checkpoint.newest(tmp_path) == complete
    assert checkpoint.load(complete).step == 3


def test_all_but_the_newest_two_checkpoints_are_deleted(assembly: Assembly, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, captured(assembly, step))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000002.pt",
        "step-00000003.pt",
    ]


def test_a_late_attempt_neither_writes_nor_sweeps_once_another_owns_the_folder(
    assembly: Assembly, tmp_path: Path
) -> None:
    first, second = Fence(tmp_path, 1, "w1"), Fence(tmp_path, 2, "w2")
    first.take()
    early = checkpoint.save(tmp_path, captured(assembly, 3), first)
    abandoned = tmp_path / "step-00000004.pt.001-abcdef.tmp"
    abandoned.write_bytes(b"killed while it wrote")
    second.take()
    with second.staged(tmp_path / "step-00000006.pt") as half:
        half.write_bytes(b"half of a checkpoint")
        with pytest.raises(LeaseLost, match="belongs to attempt 2 of w2; attempt 1 must stop"):
            checkpoint.save(tmp_path, captured(assembly, 9), first)
        assert half.exists(), "swept by the late attempt"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"owner.json", early.name, "step-00000006.pt"}


def test_an_attempt_whose_lease_is_not_certain_writes_nothing(
    assembly: Assembly, tmp_path: Path
) -> None:
    def not_certain() -> None:
        raise LeaseLost("no answer")

    mine = Fence(tmp_path, 1, "w1")
    mine.take()
    with pytest.raises(LeaseLost):
        checkpoint.save(tmp_path, captured(assembly, 1), Fence(tmp_path, 1, "w1", not_certain))
    with pytest.raises(LeaseLost):
        Fence(tmp_path, 1, "w1", not_certain).take()
    assert [path.name for path in tmp_path.iterdir()] == ["owner.json"]


def _damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        content = content[: len(content) // 2]
    elif how == "empty":
        content = bytearray()
    else:
        content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["cut", "empty", "one bit"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    assembly: Assembly, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    older, newest = (checkpoint.save(tmp_path, captured(assembly, step)) for step in (2, 4))
    checkpoint.set_damaged_aside(tmp_path)
    assert checkpoint.newest(tmp_path) == newest
    _damage(newest, how)
    checkpoint.set_damaged_aside(tmp_path)
    assert checkpoint.newest(tmp_path) == older
    assert "step-00000004.pt is damaged; going on from step-00000002.pt" in caplog.text
    _damage(older, how)
    checkpoint.set_damaged_aside(tmp_path)
    assert checkpoint.newest(tmp_path) is None
    assert "going on from the first step" in caplog.text


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return (print, ("owned",))

    torch.save({"step": Evil()}, tmp_path / "step-00000001.pt")
    with pytest.raises(pickle.UnpicklingError):
        checkpoint.load(tmp_path / "step-00000001.pt")


def test_an_evaluation_reads_no_moments_of_the_optimizer(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    moments = {"state": {0: {"exp_avg": torch.ones(2**25)}}}
    saved = checkpoint.Checkpoint(1, {"w": torch.ones(2**18)}, moments, {}, torch.zeros(1), [])
    torch.save(saved._asdict(), path)

    def grown(read: Callable[[], checkpoint.Checkpoint]) -> int:
        before = psutil.Process().memory_info().rss
        found = read()
        assert found.model["w"].clone().sum() == 2**18
        return psutil.Process().memory_info().rss - before

    assert grown(lambda: checkpoint.mapped(path)) < 2**25
    assert grown(lambda: checkpoint.load(path)) > 2**26
