"""Loads in parquet, one row per step and layer: the form that evenload itself records.

Columns: `step` (whole number), `layer` (number or name), `load` (list of one count per expert).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.imports import recorded
from evenload.pipeline.records.imports.recorded import Asked, Recorded, Tally

COLUMNS = ("step", "layer", "load")


def read(paths: Sequence[Path], asked: Asked) -> Recorded:
    """Raises: SpecError: a file is no parquet, or has other columns"""
    why = f"{paths[0]}: rows of loads do not tell top-k"
    top_k = recorded.required(asked.top_k, "--top-k", why)
    tally: Tally | None = None
    layers: dict[Any, None] = {}  # in the order of their first rows
    for path in paths:
        step_R, layer_R, load_R = _columns(path)
        for step, layer, load in zip(step_R, layer_R, load_R, strict=True):
            where = f"{path}: load of step {step}, layer {layer}"
            if load is None or None in load:
                raise SpecError(f"{where} is null; give every expert a count")
            count_E = recorded.integers(load, where, dims=1, least=0)
            tally = tally or Tally(asked.num_experts or len(count_E))
            if len(count_E) != tally.num_experts:
                raise recorded.differing(where, "experts", len(count_E), tally.num_experts)
            tally.add_counts(step, layer, count_E)
            layers.setdefault(layer)
    if tally is None:
        raise SpecError(f"{paths[0]}: has no rows; write one per step and layer")
    if all(isinstance(layer, int) for layer in layers):
        names = {layer: f"layer {layer}" for layer in sorted(layers)}
    else:
        names = {layer: str(layer) for layer in layers}
    return tally.recorded(names, top_k, str(paths[0]))


def _columns(path: Path) -> tuple[list[int], list[object], list[list[int] | None]]:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        raise SpecError(f"{path}: no parquet file that can be read; write it again") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise SpecError(
            f"{path}: has no column {missing[0]!r} but {', '.join(table.column_names)}; rename them"
        )
    step, layer, load = (table.column(name) for name in COLUMNS)
    is_name = pa.types.is_integer(layer.type) or pa.types.is_string(layer.type)
    if not pa.types.is_integer(step.type) or not is_name or step.null_count or layer.null_count:
        raise SpecError(f"{path}: step must be a whole number, layer one or a name, in every row")
    if not hasattr(load.type, "value_type"):
        raise SpecError(f"{path}: load is {load.type} instead of a list of counts per expert")
    return step.to_pylist(), layer.to_pylist(), load.to_pylist()
