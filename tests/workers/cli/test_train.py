"""`evenload train`: input that it refuses, and the recordings of `--record-scores`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evenload.pipeline.client import Client
from evenload.pipeline.records.scores import read_recording


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


def test_scores_of_a_finished_trial_are_recorded_by_training_it_again(
    here: Any, sweep: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The second training gives the same numbers and does not change the stored trial."""
    balancer = {"kind": "sign", "step_size": 0.01}
    trial = here.write("trial.yaml", sweep()["base"] | {"balancer": balancer})
    first = here("train", trial, "--json")
    assert first.code == 0, first.err
    again = here("train", trial, "--json", "--record-scores", "scores.npz")
    assert again.code == 0, again.err
    assert "training it once more, only to record" in again.err
    assert again.document == first.document
    assert not list((tmp_path / ".evenload").glob("recording-*"))

    recording = read_recording(tmp_path / "scores.npz")
    stored = Client(home=tmp_path / ".evenload").loads(first.document["trials"][0]["digest"])
    np.testing.assert_array_equal(recording.bias_NLE, stored.bias_SLE)
    assert recording.score_NLTE.shape[0] == 24
    assert np.abs(recording.bias_NLE[-1]).max() > 0.05, "the biases must have moved"


def test_a_trial_that_extends_another_is_not_recorded(
    here: Any, sweep: Callable[..., dict[str, Any]]
) -> None:
    trial = here.write("trial.yaml", sweep()["base"] | {"extends": "0123456789abcdef"})
    ended = here("train", trial, "--record-scores", "scores.npz")
    assert ended.code == 2
    assert "this one extends 0123456789abcdef; remove extends" in ended.err
