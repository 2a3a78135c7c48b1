from __future__ import annotations

import subprocess
import sys

import pytest

from evenload.workers.training.memory import keep_freed_memory

# Allocates and frees 40 MB 20 times: 10,000 pages each time, unless the process keeps them.
CHURN = """
import resource, torch
from evenload.workers.training.memory import keep_freed_memory

def faults():
    for turn in range(21):
        if turn == 1:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
assert keep_freed_memory()
print(plain, faults())
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="this C library has no mallopt")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    command = [sys.executable, "-c", CHURN]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert plain > 20 * 1000
    # Some systems take back unused pages while the process runs, so this is not always near zero.
    assert kept < plain / 2
