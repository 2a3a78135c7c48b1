from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch

from evenload.workers.tuning import timing


def test_arms_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    timings = timing.in_turn(arms, torch.device("cpu"), turns=2)
    assert order == ["a", "b"] * 3
    assert list(timings) == ["a", "b"]


def test_a_timing_is_the_median_within_its_quartiles() -> None:
    assert timing.timing([5.0, 1.0, 2.0, 3.0, 4.0]) == (3.0, 1.5, 4.5)
    assert timing.timing([2.0]) == (2.0, 2.0, 2.0)


def test_a_call_that_waits_for_the_device_is_refused_before_a_capture_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = MagicMock()
    monkeypatch.setattr(timing.torch, "cuda", cuda)

    def waits() -> None:
        if cuda.set_sync_debug_mode.call_args == (("error",),):
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        timing.replayed(waits, torch.device("cuda"))
    cuda.graph.assert_not_called()
    cuda.set_sync_debug_mode.assert_called_with("default")


def test_a_first_call_on_another_stream_waits_for_its_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = MagicMock()
    monkeypatch.setattr(timing.torch, "cuda", cuda)
    assert timing.replayed(cuda.work, torch.device("cuda")) is cuda.CUDAGraph().replay
    made = cuda.Stream().wait_stream
    made.assert_called_once_with(cuda.current_stream())
    names = [name for name, *_ in cuda.mock_calls]
    assert names.index("Stream().wait_stream") < names.index("work") < names.index("graph")
