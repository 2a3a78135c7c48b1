from __future__ import annotations

import pytest
import torch

from evenload.workers.training import telemetry
from evenload.workers.training.step import StepOutput
from evenload.workers.training.telemetry import Telemetry


class Clock:
    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(telemetry, "time", clock)
    return clock


def output() -> StepOutput:
    zero, load_LE = torch.zeros(()), torch.ones(1, 2, dtype=torch.int64)
    return StepOutput(zero, zero, zero, load_LE, torch.zeros(1, 2), zero)


def test_seconds_are_the_mean_of_the_steps_since_the_last_drain(clock: Clock) -> None:
    log = Telemetry(tokens_per_step=8)
    for step in (1, 2):
        log.add(step, 0.1, output())
    clock.now = 3.0
    assert [record.seconds for record in log.drain()] == [1.5, 1.5]
    assert log.drain() == []


def test_time_before_a_restart_of_the_clock_is_ignored(clock: Clock) -> None:
    log = Telemetry(tokens_per_step=8)
    clock.now = 5.0
    log.restart_clock()
    log.add(1, 0.1, output())
    clock.now = 6.0
    assert [record.seconds for record in log.drain(now=5.5)] == [0.5]


def test_a_trial_of_a_stack_counts_its_share_of_the_time(clock: Clock) -> None:
    """Four trials step for 4 s, one writes a checkpoint for 1 s, and two trials step for 2 s."""
    log = Telemetry(tokens_per_step=8)
    log.share_clock(4, done_at=0.0)
    log.add(1, 0.1, output())
    clock.now = 5.0
    log.share_clock(2, done_at=4.0)
    log.add(2, 0.1, output())
    clock.now = 7.0
    assert [record.seconds for record in log.drain()] == [1.0, 1.0]  # (4/4 + 2/2) / 2 steps


def test_the_error_of_a_loss_that_is_not_finite_names_step_and_remedy() -> None:
    log = Telemetry(tokens_per_step=8)
    log.add(7, 0.1, output()._replace(loss=torch.tensor(float("nan"))))
    with pytest.raises(FloatingPointError, match=r"step 7: .*lower train.learning_rate"):
        log.drain()


def test_biases_that_are_not_finite_are_a_divergence_although_the_loss_is_finite() -> None:
    log = Telemetry(tokens_per_step=8)
    bias_LE = output().bias_LE.clone()
    bias_LE[0, 0] = float("nan")
    log.add(7, 0.1, output()._replace(bias_LE=bias_LE))
    with pytest.raises(FloatingPointError, match=r"step 7: .*layers \[0\] .*lower balancer.step"):
        log.drain()
