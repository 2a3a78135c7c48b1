from __future__ import annotations

import math

from evenload.dashboard.charts.front import Pair, pareto_front, tune_against_confirm
from evenload.dashboard.charts.style import says
from evenload.pipeline.states import Stage
from evenload.pipeline.sweep.setting import Setting
from evenload.pipeline.sweep.statistics import Interval


def _setting(label: str, vio: float, bits: float, on_front: bool = False) -> Setting:
    return Setting(
        label=label,
        kind=label.split()[0],
        trials=2,
        figures={
            "val_bits_per_byte": bits,
            "max_vio": vio,
            "max_vio_floor": 0.1,
            "idle_frac": 0.0,
            "effective_util": 0.8,
        },
        stage=Stage.TUNE,
        loss=Interval(bits, 0.01, 3),
        imbalance=Interval(vio, None, 1),
        on_front=on_front,
        violates=(),
    )


SETTINGS = [
    _setting("sign 0.01", 0.2, 2.30, on_front=True),
    _setting("aux_loss 0.01", 0.4, 2.29, on_front=True),
    _setting("sign 0.1", 0.9, 2.35),
    _setting("none", 9.0, 2.40),
]


def test_front_best_and_controls_are_told_apart_with_their_intervals() -> None:
    chart = pareto_front(SETTINGS, "sign 0.01")
    front, rivals, controls, best = chart.data
    assert list(front.x) == [0.2, 0.2, 0.4, 9.0]
    assert list(front.y) == [2.40, 2.30, 2.29, 2.29]
    assert [trace.name for trace in (rivals, controls, best)] == [
        "settings",
        "controls",
        "recommended",
    ]
    assert list(controls.x) == [9.0]
    assert list(best.error_y.array) == [0.01]
    assert best.error_x.visible is False  # one seed tells no spread
    assert "On the front: sign 0.01" in says(chart)
    assert "Recommended: sign 0.01." in says(chart)


def test_a_control_far_away_does_not_squeeze_the_settings() -> None:
    chart = pareto_front(SETTINGS, "sign 0.01")
    assert chart.layout.xaxis.type is None
    low, high = chart.layout.xaxis.range
    assert 0 < low < 0.2
    assert 0.9 < high < 1.1
    wide = [*SETTINGS[:3], _setting("sign 0.3", 4.0, 2.4)]
    wide_chart = pareto_front(wide, None)
    assert wide_chart.layout.xaxis.type == "log"
    assert 10 ** wide_chart.layout.xaxis.range[1] > 4.0


def test_what_the_search_saw_is_faint_beside_what_was_confirmed() -> None:
    confirmed = [_setting("sign 0.01", 0.25, 2.31)._replace(stage=Stage.CONFIRM)]
    chart = pareto_front(confirmed, "sign 0.01", SETTINGS)
    search = next(trace for trace in chart.data if trace.name == "search")
    assert search.text == ("", "aux_loss 0.01", "sign 0.1", "none")


def test_nothing_to_show_is_said() -> None:
    assert says(pareto_front([], None)).endswith("No setting is complete yet.")


def test_search_and_fresh_seeds_stand_side_by_side() -> None:
    pairs = [Pair("sign 0.01", Interval(2.30, None, 1), Interval(2.31, 0.02, 3))]
    joined, tuned, confirmed = tune_against_confirm(pairs, "loss").data
    assert list(joined.x) == [2.30, 2.31, None]
    assert tuned.error_x.visible is False
    assert list(confirmed.error_x.array) == [0.02]
    assert list(confirmed.customdata) == [3]
    assert math.isclose(confirmed.x[0], 2.31)
