"""Runs the tests for Triton's interpreter, and the conformance suite of all back ends in it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(900)  # 40 s of CPU, but machines may be busy
@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_agree_with_the_reference_in_the_interpreter() -> None:
    # The tests in `interpreted` cover an expert choice and recomputing.
    chosen = "interpreted or triton and not expert_choice and not recompute"
    conformance = [str(HERE / "test_ops.py"), "-k", chosen]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, str(HERE / "interpreted"), *conformance],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "passed" in ended.stdout
