from __future__ import annotations

import numpy as np
import pytest

from evenload.pipeline.sweep.critical_values import dunnett, tukey
from evenload.pipeline.sweep.seed_fit import fit_seeds
from evenload.pipeline.sweep.selection import (
    alpha_of_look,
    compare_evenness,
    detectable,
    differences,
    seeds_to_detect,
    seeds_to_settle,
    select_by_loss,
)

HOLE = np.nan


@pytest.mark.parametrize(
    ("found", "published"),
    [
        (dunnett(6, 24, 0.05), 2.43),
        (dunnett(1, 1, 0.05), 6.314),  # Student's t
        (dunnett(4, 20, 0.05, sides=2), 2.65),  # Dunnett 1964, table II
        (tukey(7, 28, 0.05), 3.1721),  # scipy.stats.studentized_range.ppf(.95, 7, 28) / sqrt(2)
        (tukey(2, 1, 0.05), 12.706),
    ],
)
def test_critical_values_are_the_published_ones(found: float, published: float) -> None:
    assert found == pytest.approx(published, abs=0.005)


def test_a_fit_with_holes_is_that_of_least_squares() -> None:
    value_SN = np.random.default_rng(0).normal(size=(5, 6))
    value_SN[[0, 2, 4, 4], [1, 3, 0, 1]] = HOLE
    cells = np.argwhere(np.isfinite(value_SN))
    design = np.zeros((len(cells), 11))
    design[np.arange(len(cells)), cells[:, 0]] = design[np.arange(len(cells)), 5 + cells[:, 1]] = 1
    seen = value_SN[*cells.T]
    best, _, rank, _ = np.linalg.lstsq(design, seen)
    inverse = np.linalg.pinv(design.T @ design)[:5, :5]
    found = fit_seeds(value_SN, is_blocked=True)
    assert found.mean_S - found.mean_S[0] == pytest.approx(best[:5] - best[0])
    assert found.freedom == len(cells) - rank == 16
    assert found.variance_S == pytest.approx(((seen - design @ best) ** 2).sum() / 16)
    factor_SS = np.diag(inverse)[:, None] + np.diag(inverse) - 2 * inverse
    assert found.factor_SS == pytest.approx(factor_SS, abs=1e-9)


def test_settings_without_a_common_seed_cannot_be_compared() -> None:
    apart_SN = np.array([[1.0, 1.1, HOLE, HOLE], [1.0, 1.2, HOLE, HOLE], [HOLE, HOLE, 9.0, 9.1]])
    found = fit_seeds(apart_SN, is_blocked=True)
    assert np.isinf(found.factor_SS[0, 2])
    assert np.isfinite(found.factor_SS[0, 1])
    assert not select_by_loss(apart_SN, 100.0, 0.05).passes_S[2]


def test_unequal_noise_is_moderated_and_equal_noise_is_pooled() -> None:
    rng = np.random.default_rng(1)
    value_SN = rng.permuted(np.tile(rng.normal(size=10), (8, 1)), axis=1)
    assert fit_seeds(value_SN, is_blocked=False).is_pooled
    unequal = fit_seeds(value_SN * np.geomspace(0.05, 5, 8)[:, None], is_blocked=False)
    assert not unequal.is_pooled
    assert unequal.variance_S[7] > 100 * unequal.variance_S[0]


def test_levels_of_seeds_do_not_count_as_noise() -> None:
    noise_SN = 0.01 * np.random.default_rng(2).normal(size=(4, 6))
    level_N = np.array([0, 5, -3, 8, 1, 2])
    assert fit_seeds(noise_SN + level_N, is_blocked=True).deviation < 0.02
    assert fit_seeds(noise_SN + level_N, is_blocked=False).deviation > 1


def test_a_bound_is_the_largest_over_the_rivals() -> None:
    """Two settings, three seeds, residual deviation s: high is d + t(2, 95 %) s sqrt(2 / 3)."""
    loss_SN = np.array([[1.0, 1.1, 1.3], [1.2, 1.2, 1.5]])
    found = select_by_loss(loss_SN, 0.1, 0.05)
    gap = loss_SN[1] - loss_SN[0]
    half = 2.91999 * gap.std(ddof=1) / np.sqrt(3)
    assert found.high_S == pytest.approx([half - gap.mean(), half + gap.mean()], abs=1e-4)
    assert found.passes_S.tolist() == [True, False]


def test_a_setting_that_is_far_worse_is_out_and_the_others_pass() -> None:
    rng = np.random.default_rng(3)
    loss_SN = np.array([[0.0], [0.0], [5.0]]) + 0.1 * rng.normal(size=(3, 5))
    found = select_by_loss(loss_SN, 1.0, 0.05)
    assert found.passes_S.tolist() == [True, True, False]
    assert found.is_out_S.tolist() == [False, False, True]
    assert found.low_S[2] == pytest.approx(5.0, abs=0.5)


def test_one_seed_says_nothing_about_loss() -> None:
    found = select_by_loss(np.array([[1.0], [9.0]]), 0.1, 0.05)
    assert not found.passes_S.any()
    assert not found.is_out_S.any()
    assert np.isnan(differences(found.fit, 0)[1]).all()


def test_one_seed_tells_evenness_apart_only_by_more_than_the_assumed_noise() -> None:
    found = compare_evenness(np.log([[1.0], [1.5], [9.0]]), 0.05)
    assert found.is_assumed
    assert found.is_tied(0, 1)
    assert not found.is_tied(0, 2)


def test_differences_have_dunnetts_interval_widened_as_students_t() -> None:
    loss_SN = np.random.default_rng(4).normal(size=(5, 5))
    fit = fit_seeds(loss_SN, is_blocked=True)
    above_S, half_S = differences(fit, 0)
    assert above_S[1] == pytest.approx(loss_SN[1].mean() - loss_SN[0].mean())
    # Dunnett's two-sided value for four comparisons at a known noise is 2.442; t with 16 degrees
    # of freedom at a quarter of 5 % over the normal distribution's value is 2.813 / 2.498.
    assert fit.freedom == 16
    widened = 2.442 * 2.813 / 2.498
    assert half_S[1] == pytest.approx(widened * fit.deviation * np.sqrt(2 / 5), rel=0.002)


def test_the_looks_together_spend_at_most_five_percent() -> None:
    spent = [alpha_of_look(look) for look in range(1, 30)]
    assert spent[:2] == [0.025, 0.0125]
    assert sum(spent) == pytest.approx(0.05, abs=1e-6)


def test_the_number_of_seeds_that_settle_is_the_published_one() -> None:
    """At a noise of .65 of the margin, 5 seeds name one of 7 equal settings."""
    assert seeds_to_settle(7, 0.65, 1.0, 0.05) == 5
    assert seeds_to_settle(30, 0.65, 1.0, 0.05) == 7
    assert seeds_to_settle(7, 65.0, 1.0, 0.05) is None


def test_the_detectable_difference_is_found_in_four_of_five_sweeps() -> None:
    rng = np.random.default_rng(5)
    fit = fit_seeds(rng.normal(size=(4, 6)), is_blocked=True)
    away = detectable(fit, 6)
    loss_SN = fit.deviation * rng.normal(size=(300, 4, 6))
    loss_SN[:, 1] += away
    found = [differences(fit_seeds(one_SN, is_blocked=True), 0) for one_SN in loss_SN]
    shown = np.mean([above_S[1] > half_S[1] for above_S, half_S in found])
    assert shown == pytest.approx(0.8, abs=0.08)


def test_the_seeds_that_a_difference_needs_detect_it_and_one_less_does_not() -> None:
    fit = fit_seeds(0.02 * np.random.default_rng(6).normal(size=(8, 5)), is_blocked=True)
    seeds = seeds_to_detect(fit, 0.01)
    assert seeds is not None
    assert detectable(fit, seeds) <= 0.01 < detectable(fit, seeds - 1)
    assert seeds_to_detect(fit, 1e-4) is None
    one_seed = fit_seeds(np.array([[1.0], [2.0]]), is_blocked=True)
    assert detectable(one_seed, 1) == np.inf
    assert seeds_to_detect(one_seed, 1.0) is None
