"""The labels of a run in MLflow: params, which never change, and tags, which may."""

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evenload.pipeline.records.run import RunIdentity

MAX_VALUE = 6000  # MLflow's limit, in characters
COMPUTES = ("evenload", "torch", "triton", "ray", "numpy")  # packages that affect a trial


def params(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The spec with nested keys joined by dots. Values that are not strings become JSON."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            flat |= params(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[prefix + key] = text[:MAX_VALUE]
    return flat


def attempt_tags(run: RunIdentity) -> dict[str, str]:
    """The tags of the newest attempt: its number, package versions, and the tags of `run`."""
    attempt = {"attempt": str(run.attempt), "resumed_from_step": str(run.resumed_from_step)}
    return attempt | _versions() | run.tags


@cache
def _versions() -> dict[str, str]:
    """Versions of the installed packages, without importing them."""
    versions = {}
    for name in COMPUTES:
        with suppress(PackageNotFoundError):
            versions[f"version.{name}"] = version(name)
    return versions
