"""One log file per attempt with everything that its trial logs, prints and warns."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from evenload.pipeline.redaction import RedactedFile, secrets
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import Claim, WorkKind


def log_path(settings: Settings, digest: str, attempt: int, kind: WorkKind) -> Path:
    return settings.trial_dir(digest) / "logs" / f"attempt-{attempt:03}-{kind}.log"


def log_of(settings: Settings, claim: Claim) -> Path:
    return log_path(settings, claim.digest, claim.attempt, claim.kind)


@contextmanager
def attempt_log(path: Path, settings: Settings) -> Iterator[None]:
    """Writes everything that this process logs or prints to `path`, without secrets.

    It covers the whole process, because an actor works on one trial at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as opened:
        file = RedactedFile(opened, secrets(settings))
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root = logging.getLogger()
        root.addHandler(handler)
        logging.getLogger("evenload").setLevel(logging.INFO)  # other packages only log warnings
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            root.removeHandler(handler)
