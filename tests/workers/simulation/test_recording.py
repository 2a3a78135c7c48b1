from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.scores import Recording, read_recording, write_recording
from evenload.pipeline.spec.simulation import Recorded, SimulationSpec
from evenload.workers.simulation.run import simulate
from evenload.workers.simulation.score_streams import recorded_scores


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    score_NLTE = np.random.default_rng(0).random((3, 2, 5, 4), dtype=np.float32)
    written = Recording(score_NLTE, np.ones((3, 2, 4), np.float32), 2)
    read = read_recording(write_recording(tmp_path / "new" / "run.npz", written))
    assert np.array_equal(read.score_NLTE, written.score_NLTE)
    assert np.array_equal(read.bias_NLE, written.bias_NLE)
    assert read.top_k == 2


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 damaged", "array", "other"])
def test_other_files_are_refused(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "file.npz"
    with path.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        elif content == "array":
            np.save(file, np.zeros(3))
        else:
            np.savez(file, weights=np.zeros(3))
    cpu = torch.device("cpu")
    for read in (read_recording, lambda path: recorded_scores(Recorded(path=path), cpu)):
        with pytest.raises(SpecError, match=r"file\.npz'?: not a recording of scores") as error:
            read(path)
        assert "pickle" not in str(error.value)


def test_logits_are_replayed_by_every_rule_but_quantile(tmp_path: Path) -> None:
    logit_NLTE = np.random.default_rng(0).normal(size=(70, 1, 64, 8)).astype(np.float32)
    logit_NLTE[..., 0] += 1
    logits = Recording(logit_NLTE, np.zeros_like(logit_NLTE[:, :, 0]), 2, unit="logit")
    write_recording(tmp_path / "scores.npz", logits)
    asked: dict[str, Any] = {
        "num_experts": 8,
        "top_k": 2,
        "streams": {"imported": {"kind": "recorded", "path": tmp_path}},
        "rules": [{"kind": "none"}, {"kind": "self_tuned"}],
    }
    none, tuned = simulate(SimulationSpec.model_validate(asked)).rows()
    assert tuned["max_vio"] < 0.5 * none["max_vio"]
    asked["rules"].append({"kind": "quantile"})
    with pytest.raises(SpecError, match=r"'quantile' is made for scores in .*units of a logit"):
        simulate(SimulationSpec.model_validate(asked))
