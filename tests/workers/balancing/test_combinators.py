from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from evenload.workers.balancing.base import Balancer, BiasState, Observation
from evenload.workers.balancing.combinators import (
    centred,
    clipped,
    decayed,
    frozen_from,
    once_in,
    warmed_up,
)


def push(observation: Observation, state: BiasState) -> BiasState:
    """Adds 1, 2, 3, ... to the biases and ignores the observation."""
    step_E = torch.arange(1.0, state.bias_LE.shape[-1] + 1)
    return BiasState(state.bias_LE + step_E, state.updates + 1)


PUSH = Balancer(init=BiasState.zeros, update=push)


def bias_after(rule: Balancer, progress: float) -> list[float]:
    state = rule.init(1, 4, torch.device("cpu"))
    seen = Observation(torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4), progress)
    return rule.update(seen, state).bias_LE[0].tolist()


def test_centring_takes_the_mean_away() -> None:
    assert bias_after(centred(PUSH), 0.5) == [-1.5, -0.5, 0.5, 1.5]


def test_clipping_holds_the_bias_within_the_cap() -> None:
    assert bias_after(clipped(PUSH, 2.5), 0.5) == [1.0, 2.0, 2.5, 2.5]


def test_clipping_then_centring_keeps_both_mean_and_spread() -> None:
    assert bias_after(centred(clipped(PUSH, 2.5)), 0.5) == [-1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize(("progress", "share"), [(0.1, 0.25), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)])
def test_warming_up_scales_each_step_by_a_ramp(progress: float, share: float) -> None:
    assert bias_after(warmed_up(PUSH, 0.4), progress) == [share * k for k in (1, 2, 3, 4)]


def test_freezing_stops_the_bias_after_the_share_and_not_at_it() -> None:
    assert bias_after(frozen_from(PUSH, 0.8), 0.8) == [1.0, 2.0, 3.0, 4.0]
    assert bias_after(frozen_from(PUSH, 0.8), 0.81) == [0.0, 0.0, 0.0, 0.0]


def test_a_frozen_rule_still_counts_its_updates() -> None:
    rule = frozen_from(PUSH, 0.5)
    state = rule.init(1, 4, torch.device("cpu"))
    seen = Observation(torch.ones(1, 4, dtype=torch.int64), torch.ones(1, 4), 0.9)
    assert rule.update(seen, state).updates == 1


@pytest.mark.parametrize(
    ("shape", "progress", "share"),
    [
        ("linear", 0.5, 1.0),
        ("linear", 0.75, 0.5),
        ("linear", 0.9, 0.2),
        ("linear", 1.0, 0.0),
        ("cosine", 0.4, 1.0),
        ("cosine", 0.75, 0.5),
        ("cosine", 0.625, (1 + 2**-0.5) / 2),
        ("cosine", 1.0, 0.0),
    ],
)
def test_a_decay_scales_each_step_down_to_nothing_at_the_end(
    shape: str, progress: float, share: float
) -> None:
    moved = bias_after(decayed(PUSH, 0.5, shape), progress)
    assert moved == pytest.approx([share * k for k in (1, 2, 3, 4)], abs=1e-6)


def test_a_rule_that_moves_once_in_three_steps_sees_the_loads_of_all_three(
    lab: SimpleNamespace,
) -> None:
    rule, alone = once_in(lab.make("smebu", step_size=0.1), 3), lab.make("smebu", step_size=0.1)
    state, expected = (one.init(1, 4, torch.device("cpu")) for one in (rule, alone))
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        seen = [
            Observation(torch.randint(9, (1, 4), generator=generator), torch.ones(1, 4) * 4, 0.5)
            for _ in range(3)
        ]
        for step, one in enumerate(seen):
            before = state
            state = rule.update(one, state)
            assert torch.equal(state.bias_LE, before.bias_LE) is (step < 2)
        count_LE, target_LE = (sum(part) for part in list(zip(*seen, strict=True))[:2])
        expected = alone.update(Observation(count_LE, target_LE, 0.5), expected)
        assert torch.equal(state.bias_LE, expected.bias_LE)
        assert torch.equal(state.momentum_LE, expected.momentum_LE)
        assert state.waiting_count_LE.sum() == 0


def test_a_loss_beside_a_rule_leaves_its_biases_alone(lab: SimpleNamespace) -> None:
    plain, mixed = lab.make("sign"), lab.make("sign", aux={"coefficient": 0.5, "groups": 2})
    assert plain.loss is None
    assert mixed.loss is not None
    score = lab.scores(0, layers=1)
    states = []
    for rule in (plain, mixed):
        state = rule.init(1, 8, torch.device("cpu"))
        states.append(rule.update(lab.observe(rule, state, score), state))
    assert torch.equal(states[0].bias_LE, states[1].bias_LE)


def test_the_sign_rule_warms_up_moves_and_freezes(lab: SimpleNamespace) -> None:
    rule = lab.make("sign", step_size=0.1, warm_until=0.5, freeze_from=0.75)
    state = rule.init(1, 8, torch.device("cpu"))
    score = lab.scores(0, layers=1)
    moved = []
    for progress in (0.25, 0.5, 0.75, 1.0):
        after = rule.update(lab.observe(rule, state, score, progress=progress), state)
        moved.append(float((after.bias_LE - state.bias_LE).abs().max()))
        state = after
    assert moved[0] == pytest.approx(moved[1] / 2, rel=0.3)
    assert moved[2] > 0.05
    assert moved[3] == 0
