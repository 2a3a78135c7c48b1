"""Tests of the capture of CUDA graphs, with a mock in place of `torch.cuda`."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch

from infra.benchmarks import cuda_graphs


def test_a_call_that_waits_for_the_device_is_refused_before_a_capture_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = MagicMock()
    monkeypatch.setattr(cuda_graphs.torch, "cuda", cuda)

    def waits() -> None:
        if cuda.set_sync_debug_mode.call_args == (("error",),):
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        cuda_graphs.replayed(waits, torch.device("cuda"))
    cuda.graph.assert_not_called()
    cuda.set_sync_debug_mode.assert_called_with("default")


def test_a_first_call_on_another_stream_waits_for_its_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = MagicMock()
    monkeypatch.setattr(cuda_graphs.torch, "cuda", cuda)
    assert cuda_graphs.replayed(cuda.work, torch.device("cuda")) is cuda.CUDAGraph().replay
    made = cuda.Stream().wait_stream
    made.assert_called_once_with(cuda.current_stream())
    names = [name for name, *_ in cuda.mock_calls]
    assert names.index("Stream().wait_stream") < names.index("work") < names.index("graph")
