from __future__ import annotations

from typing import Any

import pytest

from evenload.pipeline.spec.search_space import Chooser, Range, choose, corners, dimensions, locate
from evenload.pipeline.spec.trial import TrialSpec

STEP = {"low": 0.001, "high": 0.1, "log": True}
AXES: dict[str, Any] = {
    "model": [{"preset": "tiny"}, {"preset": "small"}],
    "model.num_experts": [16, 32],
    "balancer": [
        {"kind": "none"},
        {"kind": "sign"},
        {"kind": "sign", "step_size": 0.01},
        {"kind": "sign", "step_size": STEP, "schedule": "inverse"},
    ],
    "train.learning_rate": Range(low=0.001, high=0.01),
}


def fixed(**chosen: float) -> Chooser:
    """Chooses these coordinates."""
    values = {key.replace("__", "."): value for key, value in chosen.items()}
    return lambda name, span: 0.00512345 if isinstance(span, Range) else values.get(name, 0)


def trial(values: dict[str, Any]) -> dict[str, Any]:
    """The stored spec of a trial with these values of the axes."""
    model = values["model"] | {"num_experts": values["model.num_experts"]}
    train = {"steps": 4, "batch_sequences": 4, "seq_len": 16}
    return TrialSpec.model_validate(
        {
            "model": model,
            "train": train | {"learning_rate": values["train.learning_rate"]},
            "balancer": values["balancer"],
        }
    ).model_dump(mode="json")


def test_numbers_of_a_range_are_rounded_for_labels() -> None:
    span = Range(low=0.001, high=0.1, log=True)
    assert [span.at(share) for share in (0, 0.5, 1)] == [0.001, 0.01, 0.1]
    assert Range(low=0, high=3).at(1 / 3) == 1.0
    assert span.at(0.123) == 0.00176
    assert Range(low=0.12345, high=1).rounded(0.12341) == 0.12345


def test_every_coordinate_has_its_range() -> None:
    assert dimensions(AXES) == {
        "model": 2,
        "model.num_experts": 2,
        "balancer": 4,
        "balancer[3].step_size": Range(**STEP),
        "train.learning_rate": AXES["train.learning_rate"],
    }


def test_a_number_inside_a_choice_is_drawn_only_with_it() -> None:
    coordinates, values = choose(AXES, fixed(balancer=3))
    assert coordinates["balancer[3].step_size"] == 0.00512
    assert values["balancer"] == {"kind": "sign", "step_size": 0.00512, "schedule": "inverse"}
    coordinates, _ = choose(AXES, fixed(balancer=1))
    assert "balancer[3].step_size" not in coordinates


@pytest.mark.parametrize("balancer", range(4))
@pytest.mark.parametrize("model", range(2))
def test_a_trial_is_located_by_its_spec(balancer: int, model: int) -> None:
    """This includes presets, defaults and axes below axes. The more exact of two choices wins."""
    chooser = fixed(balancer=balancer, model=model, model__num_experts=1)
    coordinates, values = choose(AXES, chooser)
    assert locate(AXES, trial(values)) == coordinates


def test_a_trial_outside_the_space_is_not_located() -> None:
    _, values = choose(AXES, fixed())
    assert locate(AXES, trial(values | {"balancer": {"kind": "quantile"}})) is None
    assert locate(AXES, trial(values | {"train.learning_rate": 0.5})) is None
    assert locate({"no.such.key": [1]}, trial(values)) is None
    assert locate({"model": [{"preset": ["tiny"], "d_model": 1}]}, trial(values)) is None


def test_corners_are_all_choices_and_three_numbers_per_range() -> None:
    axes: dict[str, Any] = {"a": [1, {"b": {"low": 0, "high": 5}}], "c": Range(low=2, high=3)}
    chosen = [1, {"b": 0.0}, {"b": 1.91}, {"b": 5.0}]
    assert list(corners(axes)) == [{"a": a, "c": c} for a in chosen for c in (2.0, 2.38, 3.0)]
