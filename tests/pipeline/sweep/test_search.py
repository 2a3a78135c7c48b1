from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.sweep.search import propose
from pipeline.sweep_spec import SweepSpec


def sweep(search: dict[str, Any]) -> SweepSpec:
    base = {
        "model": {"preset": "tiny"},
        "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
        "balancer": {"kind": "sign"},
    }
    return SweepSpec(name="s", base=base, axes={"train.seed": list(range(20))}, search=search)


def seeds(search: dict[str, Any]) -> list[int]:
    return [trial.train.seed for trial in propose(sweep(search))]


def test_a_grid_is_run_in_its_order() -> None:
    assert seeds({"kind": "grid"}) == list(range(20))


def test_random_search_runs_every_point_once_in_an_order_of_its_seed() -> None:
    order = seeds({"kind": "random", "seed": 1})
    assert order != list(range(20))
    assert sorted(order) == list(range(20))
    assert seeds({"kind": "random", "seed": 1}) == order
    assert seeds({"kind": "random", "seed": 2}) != order


def test_a_smaller_random_sample_is_the_beginning_of_a_larger_one() -> None:
    assert seeds({"kind": "random", "trials": 5}) == seeds({"kind": "random"})[:5]


def test_the_search_is_part_of_what_a_sweep_is() -> None:
    assert sweep({"kind": "grid"}).sweep_id() != sweep({"kind": "random"}).sweep_id()


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        sweep({"kind": "random", "trials": 0})
