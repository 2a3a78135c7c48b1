"""Kernels in Triton's interpreter. It is chosen when Triton is imported, so these modules run in a
process of their own, which `test_interpreter.py` starts."""

from __future__ import annotations

from evenload.workers.kernels.triton_support import interpreting

collect_ignore_glob = [] if interpreting() else ["test_*.py"]
