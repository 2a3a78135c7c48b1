"""A run's history reduced to a few hundred points in time, part by part.

A screen has fewer columns than a run has steps. Loads are reduced by the largest value in a bin:
a mean would hide the single step in which one expert got everything.

Shape suffixes: S steps, B bins of time, L expert layers, E experts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.load_metrics import max_vio, utilisation
from pipeline.spec import TrialSpec
from pipeline.tracking.load_log import History

MAX_BINS = 400
MAX_CELLS = 100_000  # of one map: 16-bit numbers in base64 are 270 KB then
PERCENT_LIMIT = 32_000  # of the fair share; the largest that fits 16 bits

Floats = NDArray[np.float32]


def bin_steps(num_steps: int, num_experts: int) -> int:
    """Steps that share a bin so that a map of experts over time stays small."""
    bins = min(MAX_BINS, max(1, MAX_CELLS // num_experts))
    return max(1, -(-num_steps // bins))


class LoadSeries:
    """Grows by `extend`; what it holds is bounded by the bins and not by the steps."""

    def __init__(self, spec: TrialSpec) -> None:
        model, steps = spec.model, spec.train.steps
        self.bin_steps = bin_steps(steps, model.num_experts)
        self.last_step = 0
        self.miscounted_steps = 0
        self._target = spec.balancer.target
        self._assignments = spec.train.tokens_per_step * model.top_k
        self._tokens = spec.train.tokens_per_step
        B = -(-steps // self.bin_steps)
        L, E = model.num_moe_layers, model.num_experts
        self._percent_BLE = np.full((B, L, E), -1, np.int16)
        self._vio_BL = np.full((B, L), -np.inf, np.float32)
        self._idle_BL = np.full((B, L), -np.inf, np.float32)
        self._bias_BLE = np.zeros((B, L, E), np.float32)
        self._seconds_B = np.zeros(B)
        self._steps_B = np.zeros(B, np.int64)
        self._loss_sum_B = np.zeros(B)
        self._loss_max_B = np.full(B, -np.inf)

    def extend(self, chunk: History) -> None:
        """Adds steps after the last one; earlier ones are left out, they are counted."""
        new = chunk.step_S > self.last_step
        if not new.any():
            return
        self._add(
            chunk.step_S[new],
            chunk.count_SLE[new],
            chunk.bias_SLE[new],
            {name: values[new] for name, values in chunk.scalars.items()},
        )

    def _add(
        self,
        step_S: NDArray[np.int64],
        count_SLE: NDArray[np.int32],
        bias_SLE: NDArray[np.float32],
        scalars: dict[str, NDArray[np.float64]],
    ) -> None:
        bin_S = (step_S - 1) // self.bin_steps
        B, start = np.unique(bin_S, return_index=True)
        util_SLE = utilisation(count_SLE, self._target)
        idle_SL = (count_SLE == 0).mean(axis=-1)
        _raise(self._percent_BLE, B, start, percent_of_fair(util_SLE))
        _raise(self._vio_BL, B, start, max_vio(count_SLE, self._target))
        _raise(self._idle_BL, B, start, idle_SL)
        _raise(self._loss_max_B, B, start, scalars["loss"])
        self._bias_BLE[B] = bias_SLE[np.append(start[1:], len(bin_S)) - 1]
        np.add.at(self._loss_sum_B, bin_S, scalars["loss"])
        np.add.at(self._seconds_B, bin_S, scalars["seconds"])
        np.add.at(self._steps_B, bin_S, 1)
        wrong_SL = count_SLE.sum(axis=-1, dtype=np.int64) != self._assignments
        self.miscounted_steps += int(wrong_SL.any(axis=-1).sum())
        self.last_step = int(step_S[-1])

    @property
    def is_empty(self) -> bool:
        return self.last_step == 0

    @property
    def step_B(self) -> NDArray[np.int32]:
        """First step of each bin that has one."""
        return (np.flatnonzero(self._steps_B) * self.bin_steps + 1).astype(np.int32)

    def percent_BE(self, layer: int) -> NDArray[np.int16]:
        """Largest load in the bin, percent of the fair share; 0 only where it was idle all the bin.

        -1 where nothing was counted.
        """
        return self._percent_BLE[self._filled, layer]

    @property
    def max_vio_BL(self) -> Floats:
        """Largest MaxVio in the bin."""
        return self._vio_BL[self._filled]

    @property
    def idle_BL(self) -> Floats:
        """Largest share of experts without a token in one step of the bin."""
        return self._idle_BL[self._filled]

    def bias_BE(self, layer: int) -> Floats:
        """Bias at the last step of the bin."""
        return self._bias_BLE[self._filled, layer]

    @property
    def loss_B(self) -> Floats:
        """Mean training loss of the bin, nats per token."""
        return (self._loss_sum_B[self._filled] / self._steps_B[self._filled]).astype(np.float32)

    @property
    def loss_max_B(self) -> Floats:
        return self._loss_max_B[self._filled].astype(np.float32)

    @property
    def tokens_per_second_B(self) -> Floats:
        tokens_B = self._steps_B[self._filled] * self._tokens
        with np.errstate(divide="ignore", invalid="ignore"):
            return (tokens_B / self._seconds_B[self._filled]).astype(np.float32)

    @property
    def _filled(self) -> NDArray[np.bool_]:
        return self._steps_B > 0


def percent_of_fair(util_E: NDArray[np.floating[Any]]) -> NDArray[np.int16]:
    """Utilisation as whole percent of the fair share; leading dimensions are free.

    A busy expert never rounds to 0, which means idle; -1 is where nothing was counted.
    """
    percent = np.clip(np.rint(util_E * 100), 0, PERCENT_LIMIT)
    percent = np.where((util_E > 0) & (percent == 0), 1, percent)
    return np.where(np.isnan(util_E), -1, percent).astype(np.int16)


def _raise(
    held: NDArray[Any], B: NDArray[np.int64], start: NDArray[np.int64], values: NDArray[Any]
) -> None:
    held[B] = np.maximum(held[B], np.maximum.reduceat(values, start, axis=0))
