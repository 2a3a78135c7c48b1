"""What an import gives, whatever wrote the files: the load of every expert at every step.

Letters: S steps, L layers with experts, E experts, N assignments.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.scores import Recording

Counts = NDArray[np.int64]
MOST_EXPERTS = 2**16  # a wrong file may claim any number
LARGEST = 2**31 - 1  # of a count or a step; shards hold int32


class Asked(NamedTuple):
    """What a user says beside the files, where they do not tell it themselves."""

    num_experts: int | None = None
    top_k: int | None = None
    score: str | None = None  # function that turns logits into the scores that select
    score_tokens: int = 256  # whose scores are kept, per step and layer
    tokens_per_step: int | None = None  # None: a file is a step
    load_torch: Callable[[Path], Any] | None = None  # reads a .pt file; this room has no torch


class Recorded(NamedTuple):
    step_S: Counts  # from 1
    layers: tuple[str, ...]  # names
    count_SLE: Counts
    top_k: int
    scores: Recording | None = None
    notes: tuple[str, ...] = ()  # what was left out, and why


class Tally:
    """Counts assignments by step and layer, in whatever order they come."""

    def __init__(self, num_experts: int) -> None:
        if num_experts > MOST_EXPERTS:
            raise SpecError(f"num_experts={num_experts} is more than {MOST_EXPERTS}; correct it")
        self.num_experts = num_experts
        self._count: dict[int, dict[Hashable, Counts]] = defaultdict(dict)

    def add(self, step: int, layer: Hashable, expert_N: NDArray[Any], where: str) -> None:
        """Counts experts; -1 is none.  Raises: SpecError: an expert that does not exist"""
        expert_N = integers(expert_N, where).reshape(-1)
        if expert_N.size and expert_N.max() >= self.num_experts:
            raise SpecError(
                f"{where}: expert {expert_N.max()}, but num_experts={self.num_experts} has 0 to "
                f"{self.num_experts - 1}; pass --num-experts of the model that was recorded"
            )
        count_E = np.bincount(expert_N[expert_N >= 0], minlength=self.num_experts)
        self.add_counts(step, layer, count_E)

    def add_counts(self, step: int, layer: Hashable, count_E: NDArray[Any]) -> None:
        if abs(step) > LARGEST:
            raise SpecError(f"step={step}: no run has as many; correct it")
        row = self._count[step]
        row[layer] = row[layer] + count_E if layer in row else count_E.astype(np.int64)

    def recorded(self, names: Mapping[Any, str], top_k: int, source: str) -> Recorded:
        """Everything counted.  Args: names: of the layers, in their order"""
        empty_E = np.zeros(self.num_experts, np.int64)
        steps = sorted(self._count)
        count_SLE = np.array(
            [[self._count[step].get(layer, empty_E) for layer in names] for step in steps], np.int64
        ).reshape(len(steps), len(names), self.num_experts)
        return cleaned(np.array(steps, np.int64), tuple(names.values()), count_SLE, top_k, source)


def cleaned(
    step_S: Counts, layers: tuple[str, ...], count_SLE: Counts, top_k: int, source: str
) -> Recorded:
    """Leaves out what was never recorded: layers and steps without assignments, steps that lack
    layers. Steps are then numbered from 1.

    Raises:   SpecError: nothing is left
    """
    notes = []
    used_L: NDArray[np.bool_] = np.any(count_SLE, axis=(0, 2))
    if not used_L.any():
        raise SpecError(f"{source}: no expert was chosen in it; record while the model runs")
    if not used_L.all():
        without = [name for name, used in zip(layers, used_L, strict=True) if not used]
        notes.append(f"layers without experts are left out: {_listed(without)}")
    count_SLE = count_SLE[:, used_L]
    filled_SL: NDArray[np.bool_] = np.any(count_SLE, axis=2)
    whole_S = filled_SL.all(axis=1)
    if torn := int((filled_SL.any(axis=1) & ~whole_S).sum()):
        notes.append(f"{torn} steps are left out that lack some of the layers")
    if not whole_S.any():
        raise SpecError(f"{source}: no step has all layers; pass the files of all pipeline stages")
    if count_SLE.max() > LARGEST:
        raise SpecError(
            f"{source}: {count_SLE.max()} assignments of an expert in a step; correct it"
        )
    if not 0 < top_k < count_SLE.shape[2]:
        raise SpecError(
            f"top_k={top_k} of {count_SLE.shape[2]} experts leaves nothing to balance; pass the "
            "--top-k of the model that was recorded"
        )
    kept = tuple(name for name, used in zip(layers, used_L, strict=True) if used)
    step_S = step_S[whole_S]
    step_S = step_S + max(0, 1 - int(step_S[0]))  # some programs count from 0
    return Recorded(step_S, kept, count_SLE[whole_S], top_k, None, tuple(notes))


def integers(values: Any, where: str, dims: int | None = None, least: int = -1) -> Counts:
    """Whole numbers, also where they were kept as floats.

    Raises:   SpecError: others, other dimensions, or some below `least`
    """
    found = np.asarray(values)
    whole = found.dtype.kind in "iu" or (found.dtype.kind == "f" and (found % 1 == 0).all())
    if not whole:
        raise SpecError(f"{where}: {found.dtype} instead of whole numbers; was it another array?")
    if dims is not None and found.ndim != dims:
        raise SpecError(
            f"{where}: has the shape {found.shape} instead of {dims} dimensions; reshape it"
        )
    if found.size and (found.min() < least or found.max() > LARGEST):
        wrong = found.min() if found.min() < least else found.max()
        raise SpecError(f"{where}: holds {wrong}; it must lie between {least} and {LARGEST}")
    return found.astype(np.int64)


def required(value: int | None, option: str, why: str) -> int:
    """Raises: SpecError: neither the files nor the user tell it"""
    if value is None:
        raise SpecError(f"{why}; pass {option}")
    return value


def differing(where: str, what: str, found: object, before: object) -> SpecError:
    return SpecError(
        f"{where}: {what}={found}, before it was {before}; import layers of one size at a time"
    )


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
