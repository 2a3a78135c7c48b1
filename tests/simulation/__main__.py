"""Runs the worlds of many seeds: `python -m tests.simulation --seeds 1000`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback

import pytest

from tests.simulation import old_faults
from tests.simulation.chaos import simulate
from tests.simulation.old_faults import FAILS_AT, SOUGHT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="number of worlds")
    parser.add_argument("--first", type=int, default=0, help="seed of the first world")
    names = [plant.__name__ for plant in (*FAILS_AT, *SOUGHT)]
    parser.add_argument("--plant", choices=names, help="put an old fault back first")
    asked = parser.parse_args()
    if asked.plant is not None:
        getattr(old_faults, asked.plant)(pytest.MonkeyPatch())
    logging.disable(logging.CRITICAL)
    began, failed = time.monotonic(), []
    for seed in range(asked.first, asked.first + asked.seeds):
        try:
            simulate(seed)
        except Exception:  # noqa: BLE001  every failing seed is shown
            failed.append(seed)
            traceback.print_exc()
            if asked.plant is not None:
                break
    print(f"{asked.seeds} worlds in {time.monotonic() - began:.0f} s; failing seeds: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
