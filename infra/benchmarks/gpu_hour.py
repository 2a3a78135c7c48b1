"""The first hour on a GPU as one command, `infra/gpu_hour.sh`, in calls of under ten minutes.

Every part runs in a process of its own and writes DIR/PART.json as it goes. A call starts parts
until its time is used up; the same command then goes on with the next one, and tries a part again
that failed or was stopped. A part that cannot run here says so in its JSON. Without a GPU the sizes
are small and times mean nothing; with TRITON_INTERPRET=1 the Triton kernels run too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from infra.benchmarks.gpu_hour_parts import PARTS, CannotRun

CALL_SECONDS = 560
ATTEMPTS = 2
ROOT = Path(__file__).parents[2]
ENDED = ("done", "cannot run")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the JSON files go")
    parser.add_argument("parts", nargs="*", help=f"run these, again if need be: {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=int, default=CALL_SECONDS, help="time of this call")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # the part that this process is for
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.inside:
        return _run_inside(given.inside, given.folder)
    if unknown := sorted(set(given.parts) - set(PARTS)):
        parser.error(f"no part {unknown[0]!r}; choose from {', '.join(PARTS)}")
    return _run_parts(given.folder, given.parts, time.monotonic() + given.seconds)


def _run_parts(folder: Path, chosen: list[str], deadline: float) -> int:
    """Returns 0 if every part has ended, 3 if parts are left for another call, 1 for a failure."""
    waiting = chosen or [name for name in PARTS if not _has_ended(folder, name)]
    started = False
    for place, name in enumerate(waiting):
        room = deadline - time.monotonic()
        if started and room < PARTS[name].seconds:
            print(f"{len(waiting) - place} parts are left: run the same command again")
            return 3
        started = True
        _run_apart(folder, name, min(room, 3 * PARTS[name].seconds))
        print(f"{name}: {_read(folder, name)['state']}", flush=True)
    states = {name: _read(folder, name).get("state") for name in PARTS}
    return 0 if chosen or all(state in ENDED for state in states.values()) else 1


def _has_ended(folder: Path, name: str) -> bool:
    found = _read(folder, name)
    return found.get("state") in ENDED or found.get("attempt", 0) >= ATTEMPTS


def _run_apart(folder: Path, name: str, limit: float) -> None:
    """Runs a part in a new process, because a failed kernel spoils the process it failed in."""
    command = [sys.executable, "-m", "infra.benchmarks.gpu_hour", str(folder), "--inside", name]
    attempt = _read(folder, name).get("attempt", 0) + 1
    _write(folder, name, {"part": name, "state": "running", "attempt": attempt})
    started = time.monotonic()
    with (folder / f"{name}.log").open("ab") as log:
        try:
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            _amend(folder, name, state="stopped", why=f"not done after {limit:.0f} s")
    if _read(folder, name)["state"] == "running":
        _amend(folder, name, state="failed", why=f"its process died; see {name}.log")
    _amend(folder, name, seconds=round(time.monotonic() - started, 1))


def _run_inside(name: str, folder: Path) -> int:
    try:
        for key, value in PARTS[name].figures(folder):
            _amend(folder, name, **{key: value})
    except (CannotRun, ModuleNotFoundError) as reason:
        _amend(folder, name, state="cannot run", why=str(reason))
    except Exception as error:
        _amend(folder, name, state="failed", why=f"{type(error).__name__}: {error}"[:2000])
        raise
    else:
        _amend(folder, name, state="done")
    return 0


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write(folder: Path, name: str, document: dict[str, Any]) -> None:
    """Whole or not at all, because a call may be killed at any time."""
    staging = folder / f"{name}.json.new"
    staging.write_text(json.dumps(document, indent=1) + "\n")
    staging.replace(folder / f"{name}.json")


def _amend(folder: Path, name: str, **changes: Any) -> None:
    _write(folder, name, _read(folder, name) | changes)


# ---- the parts ----


if __name__ == "__main__":
    sys.exit(main())
