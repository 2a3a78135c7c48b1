from __future__ import annotations

import tracemalloc
from typing import get_args

import numpy as np
import pytest

from evenload.pipeline.figures import loads
from evenload.pipeline.figures.loads import Loads, max_vio_floor
from evenload.pipeline.figures.metrics import (
    METRICS,
    Metric,
    columns,
    figures,
    in_grids,
    of_trials,
)
from evenload.pipeline.spec.sweep import Objective
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS
from evenload.pipeline.sweep.statistics import interval

SKEWED = np.array([8, 4, 4, 0])
TARGET = (0.5, 0.25, 0.125, 0.125)


def test_a_run_has_floor_window_and_count_check() -> None:
    run = figures("run", Loads(np.tile(SKEWED, (8, 2, 1)), tokens=8, top_k=2))
    assert run["max_vio"] == 1
    assert run["dead_window"] == 8
    assert run["dead_tenth"] == run["dead_zero"] == run["idle_frac"] == 0.25
    assert run["idle_streak_max"] == 8
    assert run["count_check"] == 1
    assert run["idle_expected"] == 0.5**8
    assert run["max_vio_ratio"] == 1 / run["max_vio_floor"]
    assert figures("run", Loads(np.tile(SKEWED, (8, 2, 1)), 9, 2))["count_check"] == 0


def test_steady_figures_use_only_the_last_quarter() -> None:
    skewed, even = np.tile(SKEWED, (6, 1, 1)), np.full((2, 1, 4), 4)
    run = figures("run", Loads(np.concatenate([skewed, even]), tokens=8, top_k=2))
    assert (run["max_vio"], run["sup_max_vio"]) == (0, 1)
    assert run["avg_max_vio"] == 0.75


def test_dead_experts_are_those_of_the_last_hundred_steps() -> None:
    alive, dead = np.full((50, 1, 4), 4), np.tile([8, 4, 4, 0], (100, 1, 1))
    run = figures("run", Loads(np.concatenate([alive, dead]), tokens=8, top_k=2))
    assert (run["dead_window"], run["dead_zero"]) == (100, 0.25)
    later = figures("run", Loads(np.concatenate([dead[:99], alive]), tokens=8, top_k=2))
    assert later["dead_zero"] == 0


def test_a_step_has_its_mean_and_its_worst_layer() -> None:
    count_LE = np.array([[8, 4, 4, 0], [4, 4, 4, 4]])
    step = figures("step", Loads(count_LE[None], tokens=8, top_k=2))
    assert (step["max_vio"], step["max_vio_worst"]) == (0.5, 1)
    assert (step["idle_frac"], step["idle_frac_worst"]) == (0.125, 0.25)
    assert step["min_vio"] == -0.5


def test_each_maxvio_has_a_floor_with_its_tokens_and_target() -> None:
    count_LE = np.array([[[400, 200, 120, 80]]])
    found = figures("evaluation", Loads(count_LE, tokens=400, top_k=2, target_E=TARGET))
    assert found["max_vio_global"] == pytest.approx(0.2)
    assert found[str(METRICS["max_vio_global"].floor)] == max_vio_floor(400, 4, 2, TARGET)
    step = figures("step", Loads(count_LE, tokens=8, top_k=2, target_E=TARGET))
    assert step[str(METRICS["max_vio"].floor)] == max_vio_floor(8, 4, 2, TARGET)


def test_a_floor_has_the_unit_of_its_metric_and_the_next_column() -> None:
    for metric in METRICS.values():
        if metric.floor is not None:
            assert METRICS[metric.floor].unit == metric.unit
    names = [metric.name for metric in columns()]
    for name in ("max_vio", "max_vio_global"):
        assert names[names.index(name) + 1] == METRICS[name].floor


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_entries_are_complete(metric: Metric) -> None:
    assert all((metric.title, metric.meaning, metric.formula, metric.unit, metric.window))
    assert metric.source
    assert len(metric.meaning) < 180  # it is also a tooltip
    assert not metric.meaning.endswith(".")
    assert metric.formula.count("{") == metric.formula.count("}")
    assert metric.shown(0.5)
    assert metric.compute is None or metric.of


def test_titles_and_heads_are_unique() -> None:
    titles = [metric.title for metric in METRICS.values()]
    heads = [metric.head for metric in columns()]
    assert len({*titles}) == len(titles)
    assert len({*heads}) == len(heads)


def test_figures_and_intervals_have_the_same_format() -> None:
    vio, idle = METRICS["max_vio"], METRICS["idle_frac"]
    assert vio.shown(1.234) == "1.23"
    assert idle.shown(0.125) == "12.5%"
    assert vio.shown(interval([1.0, 2.0, 3.0])) == "2.00 ± 2.48"
    assert vio.shown(interval([1.0])) == "1.00"
    assert vio.shown(None) == vio.shown(float("nan")) == vio.shown(np.float32("nan")) == "–"


def test_bounds_and_ranking_are_on_figures_of_the_table() -> None:
    field = Objective.model_fields["constraints"].annotation
    bounded = get_args(get_args(field)[0])
    assert {*bounded, LOSS, IMBALANCE} <= {metric.name for metric in of_trials()}
    assert {LOSS, IMBALANCE} <= {metric.name for metric in in_grids()}


def test_colours_end_at_the_worst_value_or_at_a_difference_that_matters() -> None:
    loss, vio, busy = (METRICS[name] for name in ("val_bits_per_byte", "max_vio", "effective_util"))
    assert loss.colour_range([2.0, 2.01]) == (2.0, 2.05)
    assert loss.badness(2.01, [2.0, 2.01]) == pytest.approx(0.2)
    assert vio.colour_range([0.2, 7.0]) == (0.0, 7.0)
    assert vio.badness(1.0, [1.0, 7.0]) == pytest.approx(1 / 3)  # logarithmic: log 2 of log 8
    assert busy.colour_range([0.9, 0.2]) == (1.0, 0.2)
    assert busy.badness(0.9, [0.9]) == pytest.approx(0.2)


def test_figures_of_a_long_run_need_little_memory_beside_its_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count_SLE = np.random.default_rng(0).integers(0, 4, (20_000, 4, 16), dtype=np.int32)
    long = Loads(count_SLE, tokens=32, top_k=1)
    figures("run", Loads(count_SLE[:8], tokens=32, top_k=1))  # draws the floor
    tracemalloc.start()
    found = figures("run", long)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * count_SLE.nbytes, "8.5 times before figures were computed by blocks"
    monkeypatch.setattr(loads, "BLOCK_COUNTS", 10**9)
    assert figures("run", long) == found
