"""Letters: T tokens, E experts, K top-k."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from evenload.pipeline.spec.balancers import parse_balancer
from evenload.workers.balancing import make_balancer
from evenload.workers.simulation.rule_runner import observe
from infra.research.assignment import balanced_assignment, capped_assignment, optimality_gap


def scores(tokens: int, experts: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).random((tokens, experts))


def brute_force(score_TE: NDArray[np.float64], top_k: int, load_E: list[int]) -> float:
    """The best total score of all routings with these loads."""
    tokens, experts = score_TE.shape
    subsets = list(itertools.combinations(range(experts), top_k))
    best = -np.inf
    for routing in itertools.product(subsets, repeat=tokens):
        flat = [expert for subset in routing for expert in subset]
        if [flat.count(expert) for expert in range(experts)] == load_E:
            value = sum(score_TE[i, k] for i, subset in enumerate(routing) for k in subset)
            best = max(best, value)
    return float(best)


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "load"),
    [
        (6, 3, 1, [2, 2, 2]),
        (6, 3, 2, [4, 4, 4]),
        (6, 2, 1, [3, 3]),
        (6, 3, 1, [4, 1, 1]),
        (4, 4, 2, [3, 2, 2, 1]),
    ],
)
def test_the_linear_program_finds_what_brute_force_finds(
    tokens: int, experts: int, top_k: int, load: list[int]
) -> None:
    for seed in range(3):
        score = scores(tokens, experts, seed)
        found = balanced_assignment(score, top_k, np.array(load, dtype=float))
        assert found.value == pytest.approx(brute_force(score, top_k, load), abs=1e-9)
        assert found.choice_TE.sum(axis=0).tolist() == pytest.approx(load)


def test_prices_are_the_dual_solution_with_the_sign_of_a_bias() -> None:
    score, top_k, load = scores(256, 8), 2, 64.0
    found = balanced_assignment(score, top_k)

    def dual(price_E: NDArray[np.float64]) -> float:
        top = np.sort(score + price_E, axis=1)[:, -top_k:]
        return float(top.sum() - load * price_E.sum())

    assert dual(found.price_E) == pytest.approx(found.value, abs=1e-8)
    assert dual(-found.price_E) > found.value + 0.1
    assert np.isin(found.choice_TE.round(9), (0.0, 1.0)).all()


def test_a_cap_without_effect_gives_plain_top_k_and_the_smallest_cap_gives_balance() -> None:
    score = scores(120, 6) + np.linspace(0.5, 0, 6)
    unconstrained = float(np.sort(score, axis=1)[:, -2:].sum())
    assert capped_assignment(score, 2, 120).value == pytest.approx(unconstrained)
    even = balanced_assignment(score, 2).value
    assert capped_assignment(score, 2, 40).value == pytest.approx(even)
    assert even < capped_assignment(score, 2, 60).value < unconstrained


def test_the_gap_is_zero_for_the_optimum_and_for_plain_top_k() -> None:
    score = scores(120, 6) + np.linspace(0.5, 0, 6)
    plain = optimality_gap(score, np.argsort(-score, axis=1)[:, :2])
    assert plain.over_span == pytest.approx(0, abs=1e-9)
    balanced = balanced_assignment(score, 2)
    expert_TK = np.argsort(-balanced.choice_TE, axis=1, kind="stable")[:, :2]
    assert optimality_gap(score, expert_TK).over_span == pytest.approx(0, abs=1e-9)


def test_random_routing_loses_more_than_balance_costs() -> None:
    score = scores(120, 6) + np.linspace(0.5, 0, 6)
    draw = np.random.default_rng(0).random(score.shape).argsort(axis=1)[:, :2]
    assert optimality_gap(score, draw).over_span > 1


@pytest.mark.parametrize("load", [[50.0, 50.0, 21.0], [121.0, 0.0, 0.0]])
def test_loads_that_no_routing_has_are_refused(load: list[float]) -> None:
    with pytest.raises(ValueError, match="must sum to"):
        balanced_assignment(scores(120, 3), 1, np.array(load))


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        ({"kind": "sign", "step_size": 0.05, "schedule": "inverse_sqrt"}, 3000),
        ({"kind": "quantile", "method": "exact"}, 300),
        ({"kind": "self_tuned"}, 300),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else None,
)
def test_rules_reach_the_optimum_on_a_separated_instance(
    rule: dict[str, object], steps: int
) -> None:
    """N=512, E=8, K=2. Tokens prefer experts by clear margins, so prices are not unique."""
    score, optimum = separated(512, 8, 2)
    balancer = make_balancer(parse_balancer(rule), 2)
    state = balancer.init(1, 8, torch.device("cpu"))
    score_1TE = torch.from_numpy(score).float()[None]
    share_E = torch.full((8,), 1 / 8)
    for step in range(steps):
        seen = observe(balancer, state, score_1TE, 2, share_E, (step + 1) / steps)
        state = balancer.update(seen, state)
    expert_TK = (score_1TE[0] + state.bias_LE[0]).topk(2).indices.numpy()
    chosen_TE = np.zeros_like(score)
    np.put_along_axis(chosen_TE, expert_TK, 1.0, axis=1)
    assert np.array_equal(chosen_TE, optimum)
    assert optimality_gap(score, expert_TK).over_span == pytest.approx(0, abs=1e-6)


def separated(
    tokens: int, experts: int, top_k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores with a known optimum: chosen cells lead by a margin, and a skew is added."""
    rng = np.random.default_rng(0)
    optimum = np.zeros((tokens, experts))
    for token in range(tokens):
        optimum[token, [(token + shift) % experts for shift in range(top_k)]] = 1
    score = 0.3 * rng.random((tokens, experts)) + 0.4 * optimum
    return score + np.linspace(0.3, -0.3, experts), optimum
