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
    assert metrics.gini(SKEWED) == pytest.approx(0.375)


def test_an_even_load_has_no_violation() -> None:
    even = np.full(8, 5)
    assert metrics.max_vio(even) == 0
    assert metrics.diversity(even) == pytest.approx(1)
    assert metrics.gini(even) == pytest.approx(0)


def test_everything_on_one_expert_is_the_worst() -> None:
    one = np.array([9, 0, 0, 0])
    assert metrics.max_vio(one) == 3
    assert metrics.diversity(one) == pytest.approx(0.25)
    assert metrics.gini(one) == pytest.approx(0.75)


def test_nothing_counted_is_nan_and_never_balanced() -> None:
    empty = np.zeros(4, dtype=int)
    for figure in (metrics.max_vio, metrics.idle_frac, metrics.dead_tenth, metrics.entropy):
        assert np.isnan(figure(empty)), figure


def test_a_target_is_the_new_fair_share() -> None:
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


def test_idle_streaks_count_up_and_start_again() -> None:
    count_SE = np.array([[0, 1], [0, 0], [3, 0], [0, 0]])
    assert metrics.idle_streak(count_SE).tolist() == [[1, 0], [2, 1], [0, 2], [1, 3]]


def test_windowed_sums() -> None:
    count_SE = np.arange(10).reshape(5, 2)
    assert metrics.windowed(count_SE, 2).tolist() == [[2, 4], [6, 8], [10, 12], [14, 16]]
    assert metrics.windowed(count_SE, 9).tolist() == [[20, 25]]


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
    with pytest.raises(ValueError, match="num_experts=4 is no multiple of ranks=3"):
        metrics.ep_effective_util(SKEWED, 3)


def test_a_summary_states_floor_window_and_count_check() -> None:
    count_SLE = np.tile(SKEWED, (8, 2, 1))
    summary = metrics.summarise(count_SLE, tokens_per_step=8, top_k=2)
    assert summary["max_vio"] == 1
    assert summary["dead_window"] == 8
    assert summary["idle_streak_max"] == 8
    assert summary["count_check"] == 1
    assert summary["idle_expected"] == 0.5**8
    assert metrics.summarise(count_SLE, tokens_per_step=9, top_k=2)["count_check"] == 0


def test_steady_figures_look_at_the_last_quarter_only() -> None:
    skewed, even = np.tile(SKEWED, (6, 1, 1)), np.full((2, 1, 4), 4)
    summary = metrics.summarise(np.concatenate([skewed, even]), tokens_per_step=8, top_k=2)
    assert (summary["max_vio"], summary["sup_max_vio"]) == (0, 1)
    assert summary["avg_max_vio"] == 0.75
