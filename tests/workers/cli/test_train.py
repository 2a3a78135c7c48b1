"""`evenload train`: what is refused before it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_a_recording_that_cannot_be_written_is_refused_before_training(
    here: Any, sweep: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    trial = here.write("trial.yaml", sweep()["base"])
    (tmp_path / "a-file").write_text("")
    (tmp_path / "a-folder").mkdir()
    for path, reason in [("a-file/scores.npz", "File exists"), ("a-folder", "Is a directory")]:
        ended = here("train", trial, "--record-scores", path)
        assert ended.code == 2
        assert ended.err == (
            f"error: --record-scores {path}: {reason}; give a file that can be written\n"
        )
    assert not (tmp_path / ".evenload").exists()
