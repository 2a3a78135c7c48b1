"""The experts of every token of a request, as vLLM and SGLang return them: (tokens, layers, K).

Dense layers are all 0 there. A file is a step, unless `--tokens-per-step` says otherwise.

Source: CompletionOutput.routed_experts of vLLM; --enable-return-routed-experts of SGLang.

Letters: T tokens, L layers, K top-k.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.imports import recorded
from evenload.pipeline.records.imports.recorded import Asked, Recorded, Tally
from evenload.pipeline.records.scores import UNREADABLE


def read(paths: Sequence[Path], asked: Asked) -> Recorded:
    """Raises: SpecError: a file is no such array, or its layers differ from the others'"""
    why = f"{paths[0]}: routed experts do not tell how many experts there are"
    tally = Tally(recorded.required(asked.num_experts, "--num-experts", why))
    requests = [(path, _array(path)) for path in paths]
    shape = requests[0][1].shape[1:]
    is_routed_L = np.full(shape[0], shape[1] == 1)  # with K = 1, all 0 can be a true choice
    for path, expert_TLK in requests:
        if expert_TLK.shape[1:] != shape:
            raise recorded.differing(str(path), "(layers, K)", expert_TLK.shape[1:], shape)
        is_routed_L = is_routed_L | (expert_TLK > 0).any(axis=(0, 2))
    routed = np.flatnonzero(is_routed_L).tolist()
    for step, (where, expert_TLK) in enumerate(_steps(requests, asked.tokens_per_step), start=1):
        for layer in routed:
            tally.add(step, layer, expert_TLK[:, layer], f"{where}: layer {layer}")
    names = {layer: f"layer {layer}" for layer in routed}
    return tally.recorded(names, shape[1], str(paths[0]))


def _array(path: Path) -> NDArray[np.int64]:
    try:
        with path.open("rb") as file:
            found: Any = np.load(file)
    except UNREADABLE:
        found = None
    if not isinstance(found, np.ndarray):
        raise SpecError(f"{path}: no .npy array; write one per request with numpy.save")
    if found.ndim != 3 or not found.size:
        raise SpecError(
            f"{path}: the shape is {found.shape} instead of (tokens, layers, K), none of them 0; "
            "decoded base64 needs reshape(-1, layers, K)"
        )
    return recorded.integers(found, str(path))


def _steps(
    requests: Sequence[tuple[Path, NDArray[np.int64]]], tokens: int | None
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    if tokens is None:
        yield from ((str(path), expert_TLK) for path, expert_TLK in requests)
        return
    every_TLK = np.concatenate([expert_TLK for _, expert_TLK in requests])
    for start in range(0, len(every_TLK), tokens):
        yield f"{requests[0][0]}, from token {start}", every_TLK[start : start + tokens]
