"""Tests of kernels in Triton's interpreter.

Triton chooses the interpreter at its import, so `test_interpreter.py` runs them in a new process.
"""

from __future__ import annotations

from evenload.workers.kernels.triton_support import interpreting

collect_ignore_glob = [] if interpreting() else ["test_*.py"]
