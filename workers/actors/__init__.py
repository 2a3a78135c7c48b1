"""The Ray actors that host training and evaluation, and the executor that starts them.

Ray (2.60) reads environment variables when it is imported. This file sets them before any module
of the package imports Ray.
"""

import os
import secrets
from pathlib import Path

_CREDENTIALS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


def _set_ray_environment() -> None:
    # Without this, Ray prints advice about a default that `ray_executor` does not use.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's default of 15 lets every other process of the machine go first.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # Ranks of Ray Train keep the working directory, because paths in a spec may be relative.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    token_file = Path.home() / ".ray" / "auth_token"
    if not token_file.exists() and not any(name in os.environ for name in _CREDENTIALS):
        # Without this, Ray writes a token file into HOME. Our token ends with this process.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


_set_ray_environment()
