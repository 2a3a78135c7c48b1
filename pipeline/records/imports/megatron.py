"""Routing traces of Megatron-core: JSON lines per rank, and the routers' logits beside them.

A record is one router call: `step`, `block`, `layer`, `rank`, `topk`, `top_indices` (tokens, K),
and with logits `logit_offset`, `logit_bytes`, `logit_shape` of bfloat16 values in
`logits_rank<rank>.bin`. Micro-batches of a step are further records. Ranks of one tensor-parallel
group record the same tokens, so only one of them must be given.

Source: megatron/core/transformer/moe/router_trace.py of Megatron-LM, commit 4addead.

Letters: T tokens, E experts, K top-k.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ValidationError

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.records.imports import recorded
from evenload.pipeline.records.imports.recorded import Asked, Counts, Recorded, Tally
from evenload.pipeline.records.scores import Recording, Scores, room_for, stacked
from evenload.pipeline.spec.spec_file import NonNegativeInt, PositiveInt


class _Record(BaseModel, strict=True):
    """What is read of a line; it has more."""

    step: NonNegativeInt
    block: str = "decoder"
    mtp_idx: NonNegativeInt = 0
    layer: NonNegativeInt
    rank: NonNegativeInt
    topk: PositiveInt
    top_indices: list[list[NonNegativeInt]]
    logit_offset: NonNegativeInt | None = None
    logit_bytes: NonNegativeInt = 0
    logit_shape: tuple[NonNegativeInt, NonNegativeInt] = (0, 0)

    @property
    def place(self) -> tuple[int, int]:
        """Sorts as the model runs: the decoder, then the blocks that predict further tokens."""
        return (1 + self.mtp_idx if self.block == "mtp" else 0), self.layer


class _Logits(NamedTuple):
    """Where the logits of a record are."""

    path: Path
    offset: int
    tokens: int
    experts: int

    def read(self, tokens: int) -> Scores:
        """The first tokens, float32 (T, E).  Raises: SpecError: the file is missing or too short"""
        wanted = 2 * min(tokens, self.tokens) * self.experts
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


_ByStep = dict[int, dict[tuple[int, int], list[_Logits]]]


def read(paths: Sequence[Path], asked: Asked) -> Recorded:
    """Raises: SpecError: a file is no trace, or does not tell enough"""
    why = f"{paths[0]}: a trace without logits does not tell how many experts there are"
    num_experts, top_k, tally = asked.num_experts, 0, None
    logits: dict[int, _ByStep] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    places: set[tuple[int, int]] = set()
    for where, path, record in _records(paths):
        if record.logit_offset is not None:
            found = _logits(where, path, record)
            num_experts = num_experts or found.experts
            if found.experts != num_experts:
                raise recorded.differing(where, "experts", found.experts, num_experts)
            logits[record.rank][record.step][record.place].append(found)
        if top_k not in (0, record.topk):
            raise recorded.differing(where, "topk", record.topk, top_k)
        top_k = record.topk
        tally = tally or Tally(recorded.required(num_experts, "--num-experts", why))
        tally.add(record.step, record.place, _indices(where, record), f"{where}: top_indices")
        places.add(record.place)
    if tally is None:
        raise SpecError(f"{paths[0]}: empty; the trace is written at the end of each step")
    names = {
        (mtp, layer): f"mtp {mtp - 1}, layer {layer}" if mtp else f"layer {layer}"
        for mtp, layer in sorted(places)
    }
    counted = tally.recorded(names, top_k, str(paths[0]))
    if not logits:
        return counted
    return counted._replace(scores=_recording(logits[min(logits)], list(names), counted, asked))


def _records(paths: Sequence[Path]) -> Iterator[tuple[str, Path, _Record]]:
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    where = f"{path}, line {number}"
                    yield where, path, _Record.model_validate_json(line)
        except ValidationError as error:
            # The last line of a run that was killed can be half of one.
            is_json = error.errors()[0]["type"] != "json_invalid"
            problem = first_message(error) if is_json else "no JSON"
            raise SpecError(f"{where}: {problem}; trace again, or remove the line") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{path}: {error}; pass a router_trace_rank*.jsonl") from None


def _indices(where: str, record: _Record) -> Counts:
    if any(len(expert_K) != record.topk for expert_K in record.top_indices):
        raise SpecError(f"{where}: top_indices must have topk={record.topk} experts per token")
    return np.array(record.top_indices, np.int64).reshape(-1, record.topk)


def _logits(where: str, path: Path, record: _Record) -> _Logits:
    tokens, experts = record.logit_shape
    if tokens != len(record.top_indices) or record.logit_bytes != 2 * tokens * experts:
        raise SpecError(
            f"{where}: logit_shape={[tokens, experts]} and logit_bytes={record.logit_bytes} do not "
            f"describe bfloat16 logits of {len(record.top_indices)} tokens; trace again"
        )
    file = path.with_name(f"logits_rank{record.rank}.bin")
    return _Logits(file, record.logit_offset or 0, tokens, experts)


def _recording(
    logits: _ByStep, layers: Sequence[tuple[int, int]], counted: Recorded, asked: Asked
) -> Recording:
    """The scores of the first tokens of every step, on one rank."""
    if asked.score not in SCORES:
        raise SpecError(
            f"--score={asked.score}: the trace has logits and does not tell what made scores of "
            f"them; pass the model's moe_router_score_function: {', '.join(SCORES)}"
        )
    whole = [calls for _, calls in sorted(logits.items()) if all(calls[each] for each in layers)]
    if not whole:
        raise SpecError("no step has the logits of all layers; trace again with all of them")
    steps, num_layers, num_experts = counted.count_SLE.shape
    tokens = room_for(asked.score_tokens, steps, num_layers, num_experts)
    logit_NLTE, _ = stacked([[_first(calls[each], tokens) for each in layers] for calls in whole])
    score_NLTE = SCORES[asked.score](logit_NLTE)
    step_tokens = counted.count_SLE.sum() // (steps * num_layers * counted.top_k)
    unit = "probability" if asked.score in ("softmax", "sigmoid") else asked.score
    no_bias_NLE = np.zeros_like(score_NLTE[:, :, 0])
    return Recording(score_NLTE, no_bias_NLE, counted.top_k, 1, int(step_tokens), unit)


def _first(calls: Sequence[_Logits], tokens: int) -> Scores:
    """The first tokens of a step, over its micro-batches."""
    found = [calls[0].read(tokens)]
    for logits in calls[1:]:
        found.append(logits.read(tokens - sum(map(len, found))))
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
