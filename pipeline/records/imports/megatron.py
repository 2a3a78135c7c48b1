"""Routing traces of Megatron-core: JSON lines per rank, and the routers' logits beside them.

A record is one router call: `step`, `block`, `layer`, `rank`, `topk`, `top_indices` (tokens, K),
and with logits `logit_offset`, `logit_bytes`, `logit_shape` of bfloat16 values in
`logits_rank<rank>.bin`. Micro-batches of a step are further records. Ranks of one tensor-parallel
group record the same tokens, so only one of them must be given.

Source: megatron/core/transformer/moe/router_trace.py of Megatron-LM, commit 4addead.

Letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.imports.recorded import (
    Asked,
    Counts,
    Recorded,
    Tally,
    differing,
    integers,
    required,
)
from evenload.pipeline.records.scores import Recording, Scores, room_for, stacked

NUMBERS = ("step", "layer", "rank", "topk")


class _Layer(NamedTuple):
    """Sorts as the model runs: the decoder's layers, then those that predict further tokens."""

    mtp: int  # 0: the decoder
    layer: int

    def __str__(self) -> str:
        return f"mtp {self.mtp - 1}, layer {self.layer}" if self.mtp else f"layer {self.layer}"


class _Logits(NamedTuple):
    """Where the logits of a record are."""

    path: Path
    offset: int
    experts: int

    def read(self, tokens: int) -> Scores:
        """The first tokens, float32 (T, E).  Raises: SpecError: the file is missing or too short"""
        wanted = 2 * tokens * self.experts
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(wanted)
        except OSError as error:
            raise SpecError(f"{self.path}: {error.strerror}; put it beside its trace") from None
        if len(content) < wanted:
            end = self.offset + wanted
            raise SpecError(f"{self.path}: ends before byte {end}; copy the whole file")
        # bfloat16 is the upper half of a float32.
        upper = np.frombuffer(content, "<u2").astype(np.uint32) << 16
        return upper.view(np.float32).reshape(-1, self.experts)


class _Call(NamedTuple):
    where: str
    step: int
    layer: _Layer
    rank: int
    expert_TK: Counts
    logits: _Logits | None


def read(paths: Sequence[Path], asked: Asked) -> Recorded:
    """Raises: SpecError: a file is no trace, or does not tell enough"""
    why = f"{paths[0]}: a trace without logits does not tell how many experts there are"
    num_experts, top_k, tally = asked.num_experts, 0, None
    logits: dict[int, _ByStep] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    layers: set[_Layer] = set()
    for call in (call for path in paths for call in _calls(path)):
        if call.logits is not None:
            num_experts = num_experts or call.logits.experts
            if call.logits.experts != num_experts:
                raise differing(call.where, "experts", call.logits.experts, num_experts)
            logits[call.rank][call.step][call.layer].append((call.logits, len(call.expert_TK)))
        if top_k not in (0, call.expert_TK.shape[1]):
            raise differing(call.where, "topk", call.expert_TK.shape[1], top_k)
        top_k = call.expert_TK.shape[1]
        tally = tally or Tally(required(num_experts, "--num-experts", why))
        tally.add(call.step, call.layer, call.expert_TK, f"{call.where}: top_indices")
        layers.add(call.layer)
    if tally is None:
        raise SpecError(f"{paths[0]}: empty; the trace is written at the end of each step")
    recorded = tally.recorded({layer: str(layer) for layer in sorted(layers)}, top_k, str(paths[0]))
    if not logits:
        return recorded
    scores = _recording(logits[min(logits)], sorted(layers), recorded, asked)
    return recorded._replace(scores=scores)


_ByStep = dict[int, dict[_Layer, list[tuple[_Logits, int]]]]


def _calls(path: Path) -> Iterator[_Call]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                yield _call(path, f"{path}, line {number}", line)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: {error}; pass a router_trace_rank*.jsonl") from None


def _call(path: Path, where: str, line: str) -> _Call:
    try:
        record = json.loads(line)
    except ValueError:
        raise SpecError(f"{where}: no JSON; if the trace was cut off, remove the line") from None
    for key in (*NUMBERS, "top_indices"):
        if not isinstance(record, dict) or key not in record:
            raise SpecError(f"{where}: has no {key!r}; pass a router_trace_rank*.jsonl")
        if key in NUMBERS and (type(record[key]) is not int or record[key] < 0):
            raise SpecError(f"{where}: {key}={record[key]!r} is no whole number; trace again")
    mtp = 1 + int(record.get("mtp_idx", 0)) if record.get("block") == "mtp" else 0
    layer, rank = _Layer(mtp, record["layer"]), record["rank"]
    expert_TK = _indices(where, record["top_indices"], record["topk"])
    logits = _logits(path, where, record, len(expert_TK)) if "logit_offset" in record else None
    return _Call(where, record["step"], layer, rank, expert_TK, logits)


def _indices(where: str, top_indices: Any, top_k: int) -> Counts:
    if top_indices == []:
        return np.zeros((0, top_k), np.int64)
    try:
        found = np.array(top_indices)
    except ValueError:
        found = np.zeros(0, np.int64)
    if found.ndim != 2 or found.shape[1] != top_k:
        raise SpecError(f"{where}: top_indices must have topk={top_k} experts per token")
    return integers(found, f"{where}: top_indices", least=0)


def _logits(path: Path, where: str, record: dict[str, Any], tokens: int) -> _Logits:
    shape: Any = record.get("logit_shape")
    offset, size = record["logit_offset"], record.get("logit_bytes")
    is_pair = isinstance(shape, list) and len(shape) == 2 and shape[0] == tokens
    if not is_pair or size != 2 * tokens * shape[1] or type(offset) is not int:
        raise SpecError(
            f"{where}: logit_shape={shape} and logit_bytes={size} do not describe bfloat16 logits "
            f"of {tokens} tokens; trace again"
        )
    file = path.with_name(f"logits_rank{record['rank']}.bin")
    return _Logits(file, offset, shape[1])


def _recording(
    logits: _ByStep, layers: Sequence[_Layer], recorded: Recorded, asked: Asked
) -> Recording:
    """The scores of the first tokens of every step, on one rank."""
    if asked.score not in SCORES:
        raise SpecError(
            f"--score={asked.score}: the trace has logits and does not tell what made scores of "
            f"them; pass the model's moe_router_score_function: {', '.join(SCORES)}"
        )
    whole = [calls for _, calls in sorted(logits.items()) if all(calls[each] for each in layers)]
    steps, num_layers, num_experts = recorded.count_SLE.shape
    tokens = room_for(asked.score_tokens, steps, num_layers, num_experts)
    logit_NLTE, _ = stacked([[_first(calls[each], tokens) for each in layers] for calls in whole])
    score_NLTE = SCORES[asked.score](logit_NLTE)
    step_tokens = recorded.count_SLE.sum() // (steps * num_layers * recorded.top_k)
    unit = "probability" if asked.score in ("softmax", "sigmoid") else asked.score
    no_bias_NLE = np.zeros_like(score_NLTE[:, :, 0])
    return Recording(score_NLTE, no_bias_NLE, recorded.top_k, 1, int(step_tokens), unit)


def _first(calls: Sequence[tuple[_Logits, int]], tokens: int) -> Scores:
    """The first tokens of a step, over its micro-batches."""
    found = []
    for logits, there in calls:
        found.append(logits.read(min(tokens, there)))
        tokens -= len(found[-1])
    return np.concatenate(found)


def _softmax(logit: Scores) -> Scores:
    power = np.exp(logit - logit.max(axis=-1, keepdims=True))
    return power / power.sum(axis=-1, keepdims=True)


# By the value of --moe-router-score-function, and "logit" for a top-k of the logits themselves.
SCORES: dict[str, Callable[[Scores], Scores]] = {
    "softmax": _softmax,
    "sigmoid": lambda logit: np.exp(-np.logaddexp(-logit, np.float32(0))),
    "sqrtsoftplus": lambda logit: np.sqrt(np.logaddexp(logit, np.float32(0))),
    "logit": lambda logit: logit,
}
