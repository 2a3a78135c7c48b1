from __future__ import annotations

from typing import Any

import pytest

from evenload.dashboard import queries
from evenload.dashboard.sweep.parameters import ABSENT, Parameter, varying
from evenload.dashboard.sweep.tables import (
    axes,
    confirmations,
    ended_table,
    front_points,
    learning_curves,
    setting_table,
)
from evenload.pipeline.figures.loss_unit import BITS_PER_BYTE
from evenload.pipeline.sweep.axes import Axes, axes_of
from evenload.pipeline.sweep.setting import Verdict


@pytest.fixture
def searched(demo_home: Any) -> Any:
    return queries.sweep(demo_home.ids["searched"])


def test_curves_of_stopped_trials_have_a_reason(searched: Any) -> None:
    sweep, trials = searched
    curves = learning_curves(
        trials, queries.curves(sweep.sweep_id), "steps", "val_loss", axes_of(trials)
    )
    assert len(curves) == len(trials) == 36
    stopped = [curve for curve in curves if curve.ended]
    assert [curve.ended for curve in stopped] == ["stopped: ASHA: 8th of 9 at step 100"] * 2
    assert stopped[0].x_P.tolist() == [20, 40, 60, 80, 100]
    assert curves[0].x_P[-1] == 300
    by_tokens = learning_curves(
        trials, queries.curves(sweep.sweep_id), "tokens", "max_vio", axes_of(trials)
    )
    assert by_tokens[0].x_P[0] == 20 * 8 * 64


def test_reasons_of_failures_are_their_last_line(demo_home: Any) -> None:
    table = ended_table(demo_home.trials("finished"), Axes())
    assert table["At step"].tolist() == [140]
    assert table.Why[0].startswith("failed: step 141")
    assert (
        ended_table(demo_home.trials("cancelled"), Axes()).Why.tolist()
        == ["cancelled: by a user"] * 2
    )


def test_every_setting_has_a_verdict(searched: Any) -> None:
    answer = queries.answer(searched[0].sweep_id)
    table = setting_table(answer)
    assert table.place.unique().tolist() == [place.place for place in answer.places]
    at = table[table.place == answer.places[0].place].set_index("setting")
    named = answer.places[0].named
    assert named is not None
    assert at.verdict[named.label] == "named"
    assert at.verdict["none"] == "control"
    assert at.against_none["sign 0.01"] < -0.05
    assert (at.above_best[named.label] <= answer.places[0].margin).all()
    broken = named._replace(verdict=Verdict.VIOLATES, violates=("idle_frac 0.2 is above 0.1",))
    assert broken.remark == "idle_frac 0.2 is above 0.1"


def test_confirmed_settings_are_paired_with_the_search(searched: Any) -> None:
    answer = queries.answer(searched[0].sweep_id)
    pairs = confirmations(answer, "loss")
    assert {pair.label.split(",")[0] for pair in pairs} == {"none", "sign 0.01", "self_tuned"}
    assert {pair.seeds for pair in pairs} == {3}
    assert len({pair.label for pair in pairs}) == len(pairs)
    assert pairs[-1].label.startswith("none")
    assert confirmations(answer, "imbalance")[0].confirmed < 1


def test_axes_are_parameters_and_figures(searched: Any) -> None:
    trials = searched[1]
    titles = [axis.title for axis in axes(trials, varying(trials), BITS_PER_BYTE)]
    assert titles[:4] == ["num experts", "rule", "seed", "step size"]
    assert titles[4:] == ["Bits per byte", "MaxVio batch", "Idle, %", "Busy, %"]


def test_axes_of_few_levels_are_names_and_of_many_numbers() -> None:
    few = axes([], [Parameter("balancer.step_size", [0.01, ABSENT, 0.001, 0.1])], BITS_PER_BYTE)[0]
    assert few.value_T == ["0.01", ABSENT, "0.001", "0.1"]
    assert few.levels == [ABSENT, "0.001", "0.01", "0.1"]
    many = axes([], [Parameter("train.learning_rate", [ABSENT, *range(9)])], BITS_PER_BYTE)[0]
    assert many.levels is None
    assert many.value_T == [None, *map(float, range(9))]


def test_points_of_the_front_have_a_role_each(searched: Any) -> None:
    answer = queries.answer(searched[0].sweep_id)
    points = front_points(answer, answer.places[0])
    roles = {point.label: point.role for point in points if point.role != "search"}
    assert roles == {"sign 0.01": "recommended", "self_tuned": "fresh seeds", "none": "controls"}
    assert {point.label for point in points if point.role == "search"} > roles.keys()
    assert {point.role for point in points if point.on_front} == {"search"}
    assert {point.label for point in points if point.is_yardstick} == {"none"}
