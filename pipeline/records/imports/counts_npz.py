"""Counts per step in a .npz file, of torchtitan or of a loop of one's own.

Either `count_SLE`, or one array (steps, experts) per layer whose name holds `tokens_per_expert`, as
torchtitan calls its buffer. Further arrays are optional: `step_S`, `top_k`, `layers` (names).

Letters: S steps, L layers, E experts.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.imports.recorded import (
    Asked,
    Recorded,
    cleaned,
    differing,
    integers,
    required,
)
from evenload.pipeline.records.scores import UNREADABLE

BUFFER = "tokens_per_expert"


def read(paths: Sequence[Path], asked: Asked) -> Recorded:
    """Raises: SpecError: more than one file, or one without counts"""
    if len(paths) > 1:
        raise SpecError(f"{paths[1]}: one file at a time; join the arrays along the steps")
    path = paths[0]
    try:
        with path.open("rb") as file, np.load(file) as content:
            arrays = {name: content[name] for name in content.files}
    except UNREADABLE:
        raise SpecError(f"{path}: no .npz file; write one with numpy.savez") from None
    names, count_SLE = _counts(path, arrays)
    if asked.num_experts not in (None, count_SLE.shape[2]):
        raise SpecError(
            f"{path}: has counts of {count_SLE.shape[2]} experts, but --num-experts is "
            f"{asked.num_experts}; leave it out"
        )
    stored_k = int(integers(arrays["top_k"], f"{path}: top_k", 0)) if "top_k" in arrays else None
    why = f"{path}: has no 'top_k' beside its counts"
    top_k = required(asked.top_k or stored_k, "--top-k", why)
    return cleaned(_steps(path, arrays, len(count_SLE)), names, count_SLE, top_k, str(path))


def _counts(
    path: Path, arrays: Mapping[str, NDArray[Any]]
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if "count_SLE" in arrays:
        count_SLE = integers(arrays["count_SLE"], f"{path}: count_SLE", dims=3, least=0)
        names = tuple(str(name) for name in arrays.get("layers", range(count_SLE.shape[1])))
        if len(names) != count_SLE.shape[1]:
            raise SpecError(f"{path}: {len(names)} layers are named, {count_SLE.shape[1]} counted")
        return tuple(f"layer {name}" if name.isdigit() else name for name in names), count_SLE
    keys = sorted((key for key in arrays if BUFFER in key), key=_natural)
    if not keys:
        raise SpecError(
            f"{path}: has {', '.join(sorted(arrays)) or 'no arrays'}, but neither 'count_SLE' nor "
            f"an array per layer with {BUFFER!r} in its name; rename the counts"
        )
    for key in keys:
        if arrays[key].shape != arrays[keys[0]].shape:
            raise differing(f"{path}: {key}", "shape", arrays[key].shape, arrays[keys[0]].shape)
    count_SLE = np.stack([integers(arrays[key], f"{path}: {key}", 2, 0) for key in keys], axis=1)
    return tuple(key.partition(BUFFER)[0].rstrip("._/") or key for key in keys), count_SLE


def _steps(path: Path, arrays: Mapping[str, NDArray[Any]], count: int) -> NDArray[np.int64]:
    if "step_S" not in arrays:
        return np.arange(1, count + 1)
    step_S = integers(arrays["step_S"], f"{path}: step_S")
    if step_S.shape != (count,) or (np.diff(step_S) <= 0).any():
        raise SpecError(f"{path}: step_S must be {count} numbers that grow; remove it")
    return step_S


def _natural(name: str) -> list[Any]:
    """Sorts layers.10 after layers.9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
