"""The examples of attached trainings, as a user starts them, and what they leave in the home."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evenload.pipeline.records.recorded_runs import RunState, recorded_run
from evenload.pipeline.records.shards import read_history

pytest.importorskip("transformers")
EXAMPLES = Path(__file__).parents[2] / "infra" / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens", "told"),
    [("loop", 8 * 64, 1), pytest.param("trainer", 2 * 8 * 64, 5, marks=pytest.mark.slow)],
)
def test_example_records_every_step_and_its_loss(
    tmp_path: Path, name: str, tokens: int, told: int
) -> None:
    subprocess.run(
        [sys.executable, EXAMPLES / f"attach_{name}.py", "10"],
        env=os.environ | {"EVENLOAD_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        capture_output=True,
    )
    run = recorded_run(tmp_path, f"attach-{name}")
    assert (run.last_step, run.planned_steps, run.state()) == (10, 10, RunState.ENDED)
    assert (run.shape.layers, run.shape.num_experts) == (("0", "1"), 16)
    history = read_history(run.folder)
    assert (history.count_SLE.sum(axis=-1) == 2 * tokens).all()
    assert np.isfinite(history.scalars["loss"]).sum() == 10 // told
    assert np.abs(history.bias_SLE[-1]).max() > 0
