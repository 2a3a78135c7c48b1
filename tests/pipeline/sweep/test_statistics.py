from __future__ import annotations

import pytest

from evenload.pipeline.sweep.places import on_front
from evenload.pipeline.sweep.statistics import interval


def test_an_interval_is_that_of_students_t() -> None:
    """The values 1 to 5 have mean 3 and standard error 0.7071; t(4 degrees, 97.5 %) = 2.7764."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (found.mean, found.seeds) == (3.0, 5)
    assert found.half == pytest.approx(2.7764 * 0.70711, rel=1e-4)
    assert found.low == pytest.approx(1.0368, abs=1e-3)
    assert found.high == pytest.approx(4.9632, abs=1e-3)


def test_one_seed_has_no_interval() -> None:
    found = interval([2.0])
    assert (found.mean, found.half, found.low, found.high) == (2.0, None, None, None)


def test_no_seed_is_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interval([])


def test_the_front_holds_the_points_that_no_point_dominates() -> None:
    points = [(1.0, 5.0), (2.0, 2.0), (5.0, 1.0), (3.0, 3.0), (2.0, 6.0)]
    assert on_front(points) == [True, True, True, False, False]


def test_equal_points_are_both_on_the_front() -> None:
    assert on_front([(1.0, 1.0), (1.0, 1.0), (1.0, 2.0)]) == [True, True, False]
