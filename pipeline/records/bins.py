"""Bins of time of a run, as arrays.

Shape suffixes: B bins of time, L expert layers, E experts.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Fields of the bins below, by what a longer bin holds; the largest value of the others.
SUMMED = ("load", "steps", "losses", "wrong_steps", "seconds", "loss_sum")
LATEST = ("bias", "idle_steps", "learning_rate")

Floats = NDArray[np.float32]
Percent = NDArray[np.int16]


class PerExpert(NamedTuple):
    """Values per expert: arrays (L, B, E)."""

    percent: Percent  # largest load in percent of the fair share; -1 if nothing was counted
    load: NDArray[np.int64]  # sum of assignments
    bias: Floats  # at the last step of the bin
    streak: NDArray[np.int32]  # longest streak of idle steps that reaches into the bin
    idle_steps: NDArray[np.int32]  # length of the idle streak at the last step of the bin


class PerLayer(NamedTuple):
    """Values per layer: arrays (L, B)."""

    max_vio: Floats  # largest value of any step
    idle_frac: Floats  # largest value of any step


class PerBin(NamedTuple):
    """Values per bin: arrays (B,)."""

    steps: NDArray[np.int64]  # number of recorded steps
    wrong_steps: NDArray[np.int64]  # steps with a layer whose loads do not sum to tokens x top-k
    last_step: NDArray[np.int64]
    seconds: NDArray[np.float64]  # sum
    losses: NDArray[np.int64]  # number of steps whose loss was told
    loss_sum: NDArray[np.float64]
    loss_max: NDArray[np.float64]
    grad_norm_max: NDArray[np.float64]
    learning_rate: NDArray[np.float64]  # at the last step of the bin


Bins = tuple[PerExpert, PerLayer, PerBin]


def empty(L: int, B: int, E: int) -> Bins:
    """Bins without steps."""
    expert = PerExpert(
        percent=np.full((L, B, E), -1, np.int16),
        load=np.zeros((L, B, E), np.int64),
        bias=np.zeros((L, B, E), np.float32),
        streak=np.zeros((L, B, E), np.int32),
        idle_steps=np.zeros((L, B, E), np.int32),
    )
    layer = PerLayer(
        max_vio=np.full((L, B), -np.inf, np.float32), idle_frac=np.full((L, B), -np.inf, np.float32)
    )
    bins = PerBin(
        steps=np.zeros(B, np.int64),
        losses=np.zeros(B, np.int64),
        wrong_steps=np.zeros(B, np.int64),
        last_step=np.zeros(B, np.int64),
        seconds=np.zeros(B),
        loss_sum=np.zeros(B),
        loss_max=np.full(B, -np.inf),
        grad_norm_max=np.full(B, -np.inf),
        learning_rate=np.zeros(B),
    )
    return expert, layer, bins


def joined(bins: Bins) -> Bins:
    """Neighbouring bins as one, of twice the length; the second half has no steps."""
    L, B, E = bins[0].load.shape
    is_later_B = bins[2].steps[1::2] > 0
    fresh = empty(L, B, E)
    held: Any
    new: Any
    for held, new in zip(bins, fresh, strict=True):
        for name, values, target in zip(held._fields, held, new, strict=True):
            axis = min(1, values.ndim - 1)  # of the bins
            first, second = (np.moveaxis(values, axis, 0)[start::2] for start in range(2))
            np.moveaxis(target, axis, 0)[: B // 2] = _joined(name, first, second, is_later_B)
    return fresh


def _joined(
    name: str, first: NDArray[Any], second: NDArray[Any], is_later_B: NDArray[np.bool_]
) -> NDArray[Any]:
    """A field of two neighbouring bins as one; the bins are the first dimension."""
    if name in SUMMED:
        return first + second
    if name in LATEST:
        is_later = is_later_B.reshape(-1, *[1] * (first.ndim - 1))
        return np.where(is_later, second, first)
    return np.maximum(first, second)
