"""The Ray actors that host training and evaluation, and the executor that hires them.

Ray reads its environment when it is imported (2.60), so what it must find there is set here, before
any module of this package imports it.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_CREDENTIALS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


def _set_ray_environment() -> None:
    # Ray would print advice about a default that `ray_executor` does not depend on.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ranks of Ray Train stay where other workers are: paths in a spec may be relative.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    token_file = Path.home() / ".ray" / "auth_token"
    if not token_file.exists() and not any(name in os.environ for name in _CREDENTIALS):
        # Left alone, Ray writes a token file into HOME. Ours lives as long as this process.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


_set_ray_environment()
