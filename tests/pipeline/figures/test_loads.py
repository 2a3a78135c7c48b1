from __future__ import annotations

import math

import numpy as np
import pytest

from evenload.pipeline.figures import loads as metrics

SKEWED = np.array([8, 4, 4, 0])


def test_figures_of_a_skewed_load() -> None:
    assert metrics.utilisation(SKEWED).tolist() == [2, 1, 1, 0]
    assert metrics.max_vio(SKEWED) == 1
    assert metrics.min_vio(SKEWED) == -1
    assert metrics.avg_vio(SKEWED) == 0.5
    assert metrics.load_cv(SKEWED) == pytest.approx(math.sqrt(0.5))
    assert metrics.effective_util(SKEWED) == 0.5
    assert metrics.idle_frac(SKEWED) == 0.25
    assert metrics.dead_tenth(SKEWED) == 0.25
    assert metrics.entropy(SKEWED) == pytest.approx(1.5 * math.log(2))


def test_an_even_load_has_no_violation() -> None:
    even = np.full(8, 5)
    assert metrics.max_vio(even) == 0
    assert metrics.diversity(even) == pytest.approx(1)


def test_a_load_on_one_expert_has_the_worst_figures() -> None:
    one = np.array([9, 0, 0, 0])
    assert metrics.max_vio(one) == 3
    assert metrics.diversity(one) == pytest.approx(0.25)


def test_figures_without_counts_are_nan() -> None:
    empty = np.zeros(4, dtype=int)
    for figure in (metrics.max_vio, metrics.idle_frac, metrics.dead_tenth, metrics.entropy):
        assert np.isnan(figure(empty)), figure


def test_a_target_replaces_the_fair_share() -> None:
    assert metrics.max_vio(SKEWED, (0.5, 0.25, 0.125, 0.125)) == pytest.approx(1.0)
    assert metrics.max_vio(np.array([8, 4, 2, 2]), (0.5, 0.25, 0.125, 0.125)) == 0


def test_opposite_skews_of_two_ranks_cancel_only_when_counts_are_summed_first() -> None:
    left, right = np.array([8, 0]), np.array([0, 8])
    assert metrics.max_vio(left + right) == 0
    assert metrics.max_vio(np.stack([left, right])).mean() == 1


def test_leading_dimensions_are_free() -> None:
    count_SLE = np.random.default_rng(0).integers(0, 9, size=(3, 2, 4))
    assert metrics.max_vio(count_SLE).shape == (3, 2)
    assert metrics.max_vio(count_SLE)[1, 0] == metrics.max_vio(count_SLE[1, 0])


def test_idle_streaks_count_up_and_restart() -> None:
    count_SE = np.array([[0, 1], [0, 0], [3, 0], [0, 0]])
    assert metrics.idle_streak(count_SE).tolist() == [[1, 0], [2, 1], [0, 2], [1, 3]]


# Published table: Binomial draws, E experts, top-k, T tokens.
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "floor"),
    [
        (4096, 64, 6, 0.115),
        (16384, 64, 6, 0.0575),
        (65536, 64, 6, 0.0285),
        (524288, 256, 8, 0.0218),
    ],
)
def test_the_sampling_floor_matches_known_values(
    tokens: int, experts: int, top_k: int, floor: float
) -> None:
    assert metrics.max_vio_floor(tokens, experts, top_k) == pytest.approx(floor, rel=0.03)


def test_the_floor_of_two_experts_is_that_of_a_coin() -> None:
    tokens = 4096  # E|2X/T - 1| of a fair coin is sqrt(2 / (pi T))
    assert metrics.max_vio_floor(tokens, 2, 1) == pytest.approx(
        (2 / (math.pi * tokens)) ** 0.5, 0.05
    )


def test_ep_utilisation_waits_for_the_fullest_rank() -> None:
    assert metrics.ep_effective_util(SKEWED, 2) == pytest.approx(8 / 12)
    assert metrics.ep_effective_util(SKEWED, 1) == 1
    with pytest.raises(ValueError, match="num_experts=4 is not a multiple of ranks=3"):
        metrics.ep_effective_util(SKEWED, 3)


@pytest.mark.parametrize("tokens", [100, 1024])
def test_the_floor_of_a_target_is_that_of_its_own_draws(tokens: int) -> None:
    target = (0.4, 0.2, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05)
    draws = np.random.default_rng(1).multinomial(tokens, target, size=20_000)
    drawn = metrics.max_vio(draws, target).mean()
    floor = metrics.max_vio_floor(tokens, 8, 1, target)
    assert floor == pytest.approx(drawn, rel=0.02)
    assert floor > 1.3 * metrics.max_vio_floor(tokens, 8, 1)


def test_the_floor_is_zero_if_every_token_goes_to_all_experts() -> None:
    assert metrics.max_vio_floor(128, 8, 8) == 0
    assert metrics.max_vio_floor(128, 1, 1) == 0
    assert math.isnan(metrics.max_vio_floor(0, 8, 2))


def test_idle_by_chance_follows_the_target() -> None:
    assert metrics.idle_expected(8, 4, 2) == 0.5**8
    assert metrics.idle_expected(2, 2, 1, (0.9, 0.1)) == pytest.approx((0.1**2 + 0.9**2) / 2)
