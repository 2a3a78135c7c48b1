"""Dumps of SGLang's recorder of expert distributions, in the modes stat, per_pass and per_token.

stat is one file: `logical_count` (buffered steps, layers, experts), summed over ranks; rows of the
ring that were not used are 0. The others are one file per rank: `records` of forward passes with
`global_physical_count` (layers, physical experts) or, by token, `topk_ids_of_layer` (layers,
tokens, 8), padded with -1, and one `last_physical_to_logical_map` (layers, physical experts).

Source: python/sglang/srt/eplb/expert_distribution.py of SGLang, commit 02295fe.

Letters: S steps, L layers, P physical experts, E experts, T tokens, K top-k.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.imports import recorded
from evenload.pipeline.records.imports.recorded import Asked, Counts, Recorded, Tally

MAP = "last_physical_to_logical_map"


def read(paths: Sequence[Path], asked: Asked) -> Recorded:
    """Raises: SpecError: a file is no such dump, or the dumps do not belong together"""
    assert asked.load_torch is not None, "the command has torch"
    dumps = [(path, asked.load_torch(path)) for path in paths]
    kinds = [_kind(path, dump) for path, dump in dumps]
    if kinds == ["logical_count"]:
        return _of_stat(*dumps[0], asked)
    if "logical_count" in kinds:
        path = paths[kinds.index("logical_count")]
        raise SpecError(f"{path}: a dump of mode stat holds all ranks; import it alone")
    return _of_records(dumps, asked)


def _kind(path: Path, dump: Any) -> str:
    for key in ("logical_count", "records"):
        if isinstance(dump, dict) and key in dump:
            return key
    keys = ", ".join(map(str, dump)) if isinstance(dump, dict) else type(dump).__name__
    raise SpecError(
        f"{path}: has neither 'logical_count' nor 'records' but {keys or 'nothing'}; pass an "
        "expert_distribution_recorder_*.pt"
    )


def _of_stat(path: Path, dump: dict[str, Any], asked: Asked) -> Recorded:
    count_SLE = recorded.integers(dump["logical_count"], f"{path}: logical_count", dims=3, least=0)
    top_k = recorded.required(asked.top_k, "--top-k", f"{path}: mode stat does not record top-k")
    names = tuple(f"layer {layer}" for layer in range(count_SLE.shape[1]))
    found = recorded.cleaned(np.arange(1, len(count_SLE) + 1), names, count_SLE, top_k, str(path))
    if not count_SLE.any(axis=(1, 2)).all():
        return found
    note = "the recorder's ring is full, so the steps may begin in its middle"
    return found._replace(notes=(*found.notes, note))


def _of_records(dumps: Sequence[tuple[Path, dict[str, Any]]], asked: Asked) -> Recorded:
    logical_LP = _logical(*dumps[0])
    tally, top_k = Tally(int(logical_LP.max()) + 1), 0
    for path, dump in dumps:
        if not np.array_equal(_logical(path, dump), logical_LP):
            raise SpecError(f"{path}: its {MAP} is not that of {dumps[0][0]}; pass one recording")
        for number, record in enumerate(dump["records"]):
            where = f"{path}: records[{number}]"
            if not isinstance(record, dict) or not isinstance(record.get("forward_pass_id"), int):
                raise SpecError(f"{where}: has no whole number 'forward_pass_id'; dump again")
            top_k = max(top_k, _add(tally, where, record, logical_LP))
    why = f"{dumps[0][0]}: mode per_pass does not record top-k"
    top_k = recorded.required(asked.top_k or top_k or None, "--top-k", why)
    names = {layer: f"layer {layer}" for layer in range(len(logical_LP))}
    return tally.recorded(names, top_k, str(dumps[0][0]))


def _logical(path: Path, dump: dict[str, Any]) -> Counts:
    if MAP not in dump:
        raise SpecError(f"{path}: has no {MAP!r}, so physical experts cannot be named; dump again")
    logical_LP = recorded.integers(dump[MAP], f"{path}: {MAP}", dims=2, least=0)
    if not logical_LP.size:
        raise SpecError(f"{path}: {MAP} is empty; dump again")
    return logical_LP


def _add(tally: Tally, where: str, record: dict[str, Any], logical_LP: Counts) -> int:
    """Counts one forward pass and returns its top-k; 0 if only counts were recorded."""
    by_token = "topk_ids_of_layer" in record
    key, dims = ("topk_ids_of_layer", 3) if by_token else ("global_physical_count", 2)
    where = f"{where}: {key}"
    if key not in record:
        raise SpecError(f"{where} is missing, and topk_ids_of_layer too; dump again")
    found = recorded.integers(record[key], where, dims, least=-1 if by_token else 0)
    layers, physical = logical_LP.shape
    if len(found) != layers or (not by_token and found.shape[1] != physical):
        raise SpecError(f"{where}: has the shape {found.shape}, the map {logical_LP.shape}")
    if by_token and found.max(initial=-1) >= physical:
        raise SpecError(f"{where}: expert {found.max()} of {physical} physical ones; dump again")
    step = record["forward_pass_id"]
    for layer, logical_P in enumerate(logical_LP):
        if by_token:
            tally.add(step, layer, np.where(found[layer] < 0, -1, logical_P[found[layer]]), where)
        else:
            count_E = np.bincount(logical_P, found[layer], tally.num_experts)
            tally.add_counts(step, layer, count_E)
    return int((found >= 0).sum(axis=-1).max(initial=0)) if by_token else 0
