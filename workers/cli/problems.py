"""What a user is told when a command ends with an error."""

import errno
import os
import sys
import traceback
from typing import NoReturn

from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, reason_of
from evenload.pipeline.escaping import for_terminal
from evenload.pipeline.extras import explanation
from evenload.pipeline.redaction import redacted, secrets
from evenload.pipeline.settings import Settings
from evenload.workers.cli import session

REMEDIES = {
    errno.ENOSPC: "free some space, or set EVENLOAD_HOME to another disk",
    errno.EACCES: "change its permissions, or set EVENLOAD_HOME to a folder that can be written",
    errno.EROFS: "set EVENLOAD_HOME to a folder that can be written",
    errno.ENAMETOOLONG: "use a shorter path",
}


def end(problem: str, code: int) -> NoReturn:
    """Says the problem without secrets, and ends the process.

    With --json it is a JSON document, unless the command has printed its own.

    Args:     problem: empty if the command has said it
    """
    # Without reading the settings, which may be the problem.
    problem = redacted(problem, secrets(Settings.model_construct()))
    if problem:
        print(for_terminal(f"error: {problem}"), file=sys.stderr)
    if "--json" in sys.argv and not session.documents:
        session.print_json({"error": problem or "it failed; standard error says why"})
    sys.exit(code)


def problem_of(error: Exception) -> tuple[str, int]:
    """What to tell the user, and the exit code: 2 for bad input, 1 for what failed."""
    if isinstance(error, SpecError | ValidationError):
        return reason_of(error), 2
    if isinstance(error, ModuleNotFoundError) and (missing := explanation(error)):
        return missing, 2
    if isinstance(error, MemoryError):
        return "there is not enough memory; use a smaller model, fewer tokens or less data", 1
    if isinstance(error, ConnectionError) and error.errno is None:
        return str(error), 1  # raised by evenload, with its remedy
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        cure = REMEDIES.get(error.errno or 0, "check the path, the disk and the permissions")
        return f"{place}{error.strerror or error}; {cure}", 1
    if "EVENLOAD_TRACEBACK" in os.environ:
        return traceback.format_exc(), 1
    return f"{reason_of(error)}; report this, with what EVENLOAD_TRACEBACK=1 shows", 1
