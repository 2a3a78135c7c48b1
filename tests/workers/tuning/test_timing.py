from __future__ import annotations

import torch

from evenload.workers.tuning import timing


def test_arms_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    arms = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    timings = timing.in_turn(arms, torch.device("cpu"), turns=2)
    assert order == ["a", "b"] * 3
    assert list(timings) == ["a", "b"]


def test_a_timing_is_the_median_within_its_quartiles() -> None:
    assert timing.timing([5.0, 1.0, 2.0, 3.0, 4.0]) == (3.0, 1.5, 4.5)
    assert timing.timing([2.0]) == (2.0, 2.0, 2.0)
