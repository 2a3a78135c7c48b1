"""What a run is called and found by: params that never change, tags that may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.spec.trial import TrialSpec

MAX_VALUE = 6000  # characters, MLflow's limit
COMPUTES = ("evenload", "torch", "triton", "ray", "numpy")


def params(spec: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The spec flat: nested keys joined by dots; strings as they are, other values as JSON."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            flat |= params(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[prefix + key] = text[:MAX_VALUE]
    return flat


def identity_tags(run: RunIdentity, spec: TrialSpec) -> dict[str, str]:
    """What a run keeps for life; `digest` is what a later attempt finds it by."""
    tags = {"kind": "trial", "digest": run.digest, "rule": spec.balancer.label}
    if run.sweep_id:
        tags["sweep"] = run.sweep_id
    if run.parent_run_id:
        tags["mlflow.parentRunId"] = run.parent_run_id
    return tags


def attempt_tags(run: RunIdentity) -> dict[str, str]:
    """What the newest attempt says of itself: versions, and the tags it was given."""
    attempt = {"attempt": str(run.attempt), "resumed_from_step": str(run.resumed_from_step)}
    return attempt | _versions() | run.tags


def _versions() -> dict[str, str]:
    """Of what computes, without importing it."""
    versions = {}
    for name in COMPUTES:
        with suppress(PackageNotFoundError):
            versions[f"version.{name}"] = version(name)
    return versions
