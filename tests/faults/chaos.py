"""Kills parts of a cluster at random while sweeps run, and compares the results.

    python -m tests.faults.chaos --minutes 30 [--seed 0] [--folder /tmp/chaos]

Logs every kill and prints a summary as one JSON document. The exit code is 1 if a sweep did not end
like an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import AttemptState, SweepState
from tests.faults.outcome import check_attempts, finished_too_early, outcome, sweep, undisturbed
from tests.faults.stack import VICTIMS, Stack

logger = logging.getLogger("chaos")

PAUSE_SECONDS = (5.0, 30.0)  # between two kills, drawn uniformly
WEIGHTS = (4, 4, 2, 1, 2, 1, 1)  # in the order of VICTIMS: workers die more often than databases
STEPS, SEEDS = 800, 3
PATIENCE_SECONDS = 1800.0  # for sweeps to end after the last kill


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr
    )
    for quiet in ("evenload", "mlflow", "alembic"):
        logging.getLogger(quiet).setLevel(logging.ERROR)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="evenload-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    with Stack(folder) as stack:
        specs, kills = disturb(stack, 60 * options.minutes, random.Random(options.seed))
        found = [compare(stack, spec, folder) for spec in specs]
    summary = {
        "minutes": options.minutes,
        "kills": dict(kills),
        "sweeps": found,
        "is_equal": all(each["is_equal"] for each in found),
    }
    print(json.dumps(summary, indent=2))
    return 0 if summary["is_equal"] else 1


def disturb(
    stack: Stack, seconds: float, draw: random.Random
) -> tuple[list[SweepSpec], Counter[str]]:
    """Runs one sweep after the other and kills parts at random until the time is over."""
    specs: list[SweepSpec] = []
    kills: Counter[str] = Counter()
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        if not specs or _is_over(stack, specs[-1].sweep_id()):
            number = len(specs)
            seeds = [SEEDS * number + at for at in range(SEEDS)]
            specs.append(sweep(f"chaos-{number}", seeds, STEPS))
            logger.info("sweep %s", stack.submit(specs[-1]))
        time.sleep(draw.uniform(*PAUSE_SECONDS))
        (victim,) = draw.choices(VICTIMS, WEIGHTS)
        if stack.crash(victim, specs[-1].sweep_id()):
            kills[victim] += 1
            logger.info("killed: %s", victim)
        stack.keep_alive()
        early = finished_too_early(stack.mlflow_database, stack.store, specs[-1].sweep_id())
        assert early == [], f"runs that are FINISHED before their trials: {early}"
    return specs, kills


def compare(stack: Stack, spec: SweepSpec, folder: Path) -> dict[str, Any]:
    """Waits for the end of the sweep and compares it with an undisturbed one."""
    sweep_id = spec.sweep_id()
    stack.until_finished(sweep_id, PATIENCE_SECONDS)
    logger.info("%s is over; running it again undisturbed", sweep_id)
    whole, _ = undisturbed(spec, folder / "undisturbed" / sweep_id)
    problems = []
    if outcome(stack.store, stack.settings, sweep_id) != whole:
        problems.append("figures or counts differ")
    try:
        check_attempts(stack.store, sweep_id)
        stack.until_runs_are_right(sweep_id)
    except AssertionError as problem:
        problems.append(str(problem))
    trials = stack.store.trials(sweep_id)
    attempts = [a for trial in trials for a in stack.store.attempts(trial.digest)]
    return {
        "sweep_id": sweep_id,
        "trials": len(trials),
        "attempts": dict(Counter(attempt.state.value for attempt in attempts)),
        "lost": sum(attempt.state is AttemptState.LOST for attempt in attempts),
        "is_equal": not problems,
        "problems": problems,
    }


def _is_over(stack: Stack, sweep_id: str) -> bool:
    return bool(stack.trials(sweep_id)) and (
        stack.store.sweep(sweep_id).state is SweepState.FINISHED
    )


if __name__ == "__main__":
    sys.exit(main())
