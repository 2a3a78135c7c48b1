"""Runs the tests for Triton's interpreter, and the conformance suite of all back ends in it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


# The tests in `interpreted` cover an expert choice and recomputing.
OF_OPS = "interpreted or triton and not (expert_choice or recompute)"
ALL = ["interpreted", "test_ops.py", "-k", OF_OPS]
ONE_LAYER = ["interpreted/test_triton_layer.py", "-k", "softmax and add_bias"]


@pytest.mark.timeout(900)  # 40 s of CPU for all, but machines may be busy
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    "chosen",
    [pytest.param(ONE_LAYER, id="one layer"), pytest.param(ALL, id="all", marks=pytest.mark.slow)],
)
def test_kernels_agree_with_the_reference_in_the_interpreter(chosen: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, *(str(HERE / one) if (HERE / one).exists() else one for one in chosen)],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "passed" in ended.stdout
