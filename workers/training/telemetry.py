"""Collects step outputs on the device and copies many of them to the host at once."""

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray

from evenload.pipeline.records.run import StepRecord
from evenload.workers.training.step import StepOutput


class Telemetry:
    def __init__(self, tokens_per_step: int) -> None:
        self._tokens_per_step = tokens_per_step
        self._pending: list[tuple[int, float, StepOutput]] = []
        self._since = time.perf_counter()
        self._spent = 0.0  # seconds of pending steps before `_since`
        self._shared_by = 1

    def add(self, step: int, learning_rate: float, output: StepOutput) -> None:
        self._pending.append((step, learning_rate, output))

    def restart_clock(self) -> None:
        """Ignores the time since the last drain, for example that of writing a checkpoint."""
        self._since = time.perf_counter()

    def share_clock(self, trials: int, done_at: float) -> None:
        """From now on, counts only this trial's share of the time of steps of several trials.

        Args:     done_at: end of the last step; the time since then is ignored
        """
        if self._pending:
            self._spent += (done_at - self._since) / self._shared_by
        self._shared_by = trials
        self.restart_clock()

    def drain(self, now: float | None = None) -> list[StepRecord]:
        """Records of all steps since the last drain; `seconds` is their mean.

        Args:     now: reading of the performance counter at the end of these steps; None: now
        Raises:   FloatingPointError: the loss or a bias is not finite
        """
        if not self._pending:
            return []
        outputs = [output for _, _, output in self._pending]
        scalar_S4 = torch.stack(
            [torch.stack([o.loss, o.balance_loss, o.grad_norm, o.max_vio_micro]) for o in outputs]
        ).tolist()
        count_SLE = torch.stack([o.count_LE for o in outputs]).to(torch.int32).cpu().numpy()
        bias_SLE = torch.stack([o.bias_LE for o in outputs]).float().cpu().numpy()
        done = time.perf_counter() if now is None else now
        seconds = (self._spent + (done - self._since) / self._shared_by) / len(outputs)
        records = [
            StepRecord(
                step=step,
                loss=scalars[0],
                balance_loss=scalars[1],
                grad_norm=scalars[2],
                learning_rate=rate,
                tokens=step * self._tokens_per_step,
                seconds=seconds,
                count_LE=count_LE,
                bias_LE=bias_LE,
                max_vio_micro=scalars[3],
            )
            for (step, rate, _), scalars, count_LE, bias_LE in zip(
                self._pending, scalar_S4, count_SLE, bias_SLE, strict=True
            )
        ]
        self._pending.clear()
        self._spent = 0.0
        self.restart_clock()
        _check_finite(records)
        return records


def _check_finite(records: list[StepRecord]) -> None:
    for record in records:
        if not math.isfinite(record.loss) or not math.isfinite(record.grad_norm):
            raise FloatingPointError(
                f"step {record.step}: loss={record.loss}, grad_norm={record.grad_norm}; "
                "lower train.learning_rate or raise train.warmup_steps"
            )
        check_biases(record.bias_LE, f"step {record.step}")


def check_biases(bias_LE: NDArray[np.float32], where: str) -> None:
    """Routing takes NaN for the largest score, so the loss alone would not show it.

    Raises:   FloatingPointError: a bias is not finite
    """
    if not np.isfinite(bias_LE).all():
        layers = np.flatnonzero(~np.isfinite(bias_LE).all(axis=1)).tolist()
        raise FloatingPointError(
            f"{where}: biases of expert layers {layers} are not finite; lower balancer.step_size, "
            "or choose another rule"
        )
