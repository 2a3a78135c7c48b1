"""A sweep lists the settings that were asked for, or says why not, however they are written."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from evenload.pipeline.spec.search_space import corners, locate
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.sweep.search import propose, shortfall

RANGE = {"low": 0.1, "high": 0.2}
WIDE = {f"train.{key}": RANGE for key in ("beta1", "beta2", "min_lr_share", "decay_share")}
WIDER = {f"train.{key}": RANGE for key in ("grad_clip", "weight_decay", "learning_rate")}
MANY = list(range(1, 10_001))


def sweep(axes: dict[str, Any], **search: Any) -> SweepSpec:
    base = {
        "model": {"preset": "tiny"},
        "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
        "balancer": {"kind": "sign"},
    }
    return SweepSpec(name="s", base=base, axes=axes, search={"kind": "grid"} | search)


@pytest.mark.parametrize(
    ("axes", "search", "count"),
    [
        ({"train.seed": MANY, "eval.tokens": MANY}, {"kind": "grid"}, "100,000,000"),
        (WIDE, {"kind": "random", "settings": 4 * 10**12}, "4,000,000,000,000"),
        (WIDE, {"kind": "tpe", "settings": 4 * 10**9}, "4,000,000,000"),
        (WIDE | {"train.seed": MANY}, {"kind": "random", "settings": 20}, "200,000"),
    ],
)
def test_more_trials_than_a_sweep_can_list_are_counted_and_refused(
    axes: dict[str, Any], search: dict[str, Any], count: str
) -> None:
    with pytest.raises(ValueError, match=rf"ask for {count} trials.* at most 100,000"):
        sweep(axes, **search)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_a_space_of_many_ranges_or_values_is_searched_without_listing_it(kind: str) -> None:
    axes = {"train.seed": MANY, "eval.tokens": MANY} | WIDE | WIDER
    found = propose(sweep(axes, kind=kind, settings=8, cross=[]))
    assert len(found) == 8


def test_the_first_settings_of_tpe_are_at_most_all_of_them() -> None:
    assert len(propose(sweep(WIDE, kind="tpe", settings=5, startup=4 * 10**9))) == 5


@pytest.mark.parametrize(
    "axes",
    [
        {"balancer.step_size": ["1e-4", 1e-3, "0.01"]},
        {"balancer.centred": ["yes", "no"], "train.recompute": [True, "off"]},
        {"model.preset": ["tiny", "small"], "model.top_k": [2.0, "4"]},
        {"balancer": [{"kind": "sign", "step_size": "1e-3"}, {"kind": "quantile", "bins": 1e2}]},
        {"model": [{"preset": "tiny"}, {"preset": "small", "kind": "own"}]},
        {"balancer": [{"kind": "sign"}], "balancer.step_size": ["1e-3", 0.5]},
    ],
)
def test_every_way_to_write_a_value_is_found_again_in_its_trial(axes: dict[str, Any]) -> None:
    axes = sweep(axes, kind="tpe").searched_axes()
    spec = sweep(axes, kind="tpe")
    trials = [spec.trial_at(point).model_dump(mode="json") for point in corners(axes)]
    places = [tuple((locate(axes, trial) or {}).values()) for trial in trials]
    assert places == list(itertools.product(*(range(len(axis)) for axis in axes.values())))


def test_values_that_are_written_as_trials_have_them_stay_as_they_are() -> None:
    axes = {"train.beta1": [0, 0.5], "balancer": [{"kind": "sign", "step_size": 1}]}
    assert str(sweep(axes).axes) == str(axes), "the id of the sweep depends on them"


def test_fewer_settings_than_asked_are_said() -> None:
    axes = {"balancer.step_size": [0.1, 0.2], "train.seed": [0, 1]}
    for kind in ("random", "tpe"):
        spec = sweep(axes, kind=kind, settings=9)
        assert "9 settings are asked for, but the axes have only 2" in said(spec)
    assert "2 settings are asked for" in said(sweep({"balancer.step_size": [0.1, 0.1]}))
    assert said(sweep(axes)) == said(sweep(axes, kind="tpe", settings=2)) == "None"


def said(spec: SweepSpec) -> str:
    return str(shortfall(spec, propose(spec)))
