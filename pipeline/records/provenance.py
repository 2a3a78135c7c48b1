"""Which code ran a trial, on which device and corpus: one small file per attempt.

<trial_dir>/provenance/attempt-001.json   commit, core, corpus, device, versions
"""

import json
from pathlib import Path

from evenload.pipeline.records.parquet_files import replace
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.run_labels import attempt_tags

FOLDER = "provenance"


def write(trial_dir: Path, run: RunIdentity) -> None:
    """Writes the file of this attempt.  Raises: OSError: the directory cannot be written"""
    folder = trial_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(attempt_tags(run), indent=1, sort_keys=True) + "\n"
    replace(folder / f"attempt-{run.attempt:03}.json", content.encode())


def read(trial_dir: Path) -> list[dict[str, str]]:
    """The provenance of every attempt, oldest first; a file that cannot be read is named in it."""
    return [_content(path) for path in sorted((trial_dir / FOLDER).glob("attempt-*.json"))]


def _content(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {"damaged": path.name}
