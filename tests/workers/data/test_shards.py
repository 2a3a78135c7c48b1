from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.errors import SpecError
from evenload.workers.data.shards import Batches, JoinedTokens, even_windows, open_tokens

TOKENS = np.arange(1000, dtype=np.uint16)


def test_only_seed_and_position_decide_the_sequences() -> None:
    batches = Batches(TOKENS, seq_len=8, seed=3)
    together = batches.take(0, 12)
    in_two_calls = np.concatenate([batches.take(0, 5), batches.take(5, 7)])
    assert (together == in_two_calls).all()
    assert (Batches(TOKENS, 8, 4).take(0, 12) != together).any()


def test_an_epoch_visits_every_window_once_and_the_next_has_another_offset() -> None:
    batches = Batches(TOKENS, seq_len=8, seed=0)
    windows = batches.windows_per_epoch
    starts = [batches.take(epoch * windows, windows)[:, 0] for epoch in (0, 1)]
    assert len(set(starts[0].tolist())) == windows
    assert set((starts[0] % 8).tolist()) != set((starts[1] % 8).tolist())


def test_targets_are_the_next_tokens() -> None:
    sequence = Batches(TOKENS, seq_len=8, seed=0).take(0, 1)[0]
    assert (np.diff(sequence) == 1).all()
    assert len(sequence) == 9


def test_even_windows_are_in_order_and_bounded() -> None:
    window_NS = even_windows(TOKENS, seq_len=10, max_tokens=45)
    assert window_NS[:, 0].tolist() == [0, 240, 490, 740]
    assert even_windows(TOKENS, seq_len=10, max_tokens=10**9).shape == (99, 11)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.bin").write_bytes(b"123")
    with pytest.raises(SpecError, match="3 bytes"):
        open_tokens(tmp_path / "t.bin", "uint16")


def test_several_files_are_one_stream_of_which_only_what_is_asked_for_is_read(
    tmp_path: Path,
) -> None:
    parts = [TOKENS[:7], TOKENS[7:500], TOKENS[500:]]
    joined = JoinedTokens(parts)
    assert len(joined) == 1000
    assert (Batches(joined, 8, 3).take(0, 150) == Batches(TOKENS, 8, 3).take(0, 150)).all()
    assert (even_windows(joined, 10, 10**9) == even_windows(TOKENS, 10, 10**9)).all()
    for name in ("a", "b"):
        np.zeros(2**24, np.uint16).tofile(tmp_path / name)
    tracemalloc.start()
    large = JoinedTokens([open_tokens(tmp_path / name, "uint16") for name in ("a", "b")])
    Batches(large, 2**16, 0).take(0, 8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24, "less than half of one file"
