from __future__ import annotations

from evenload.dashboard.charts.cost import MAX_BARS, lost_by_ranks, lost_by_setting
from evenload.dashboard.charts.style import says
from evenload.dashboard.cost.tables import Loss


def _loss(label: str, share: float, sizes: tuple[int, ...] = (2, 4), trials: int = 1) -> Loss:
    share_R = {size: share * size / 4 for size in sizes}
    low_R = {size: 0.9 * value for size, value in share_R.items()}
    high_R = {size: 1.2 * value for size, value in share_R.items()}
    return Loss(label, 16, share_R, low_R, high_R, trials)


def test_lines_end_where_experts_cannot_be_divided() -> None:
    chart = lost_by_ranks([_loss("none", 0.4), _loss("sign", 0.1, (2,))], [2, 4], 4)
    assert [list(line.y) for line in chart.data] == [[20, 40], [5]]
    assert list(chart.layout.xaxis.categoryarray) == ["2", "4"]
    assert "to 40.0 % with none, 16 experts" in says(chart)


def test_a_setting_keeps_its_colour_over_expert_counts() -> None:
    few, many = _loss("none", 0.4), _loss("none", 0.5)._replace(experts=32)
    first, second = lost_by_ranks([few, many], [2, 4], 4).data
    assert first.line.color == second.line.color
    assert first.line.dash != second.line.dash
    assert (first.showlegend, second.showlegend) == (True, False)


def test_bars_stand_least_first_with_the_spread_of_their_trials() -> None:
    chart = lost_by_setting([_loss("none", 0.4, trials=3), _loss("sign", 0.1, trials=3)], 4)
    (bars,) = chart.data
    assert list(bars.y) == ["sign, 16 experts", "none, 16 experts"]
    assert list(bars.x) == [10, 40]
    assert [round(value, 6) for value in bars.error_x.array] == [2, 8]
    assert [round(value, 6) for value in bars.error_x.arrayminus] == [1, 4]
    assert not lost_by_setting([_loss("none", 0.4)], 4).data[0].error_x.visible


def test_of_very_many_the_cheapest_and_the_dearest_are_drawn() -> None:
    chart = lost_by_setting([_loss(f"s{n}", n / 1000) for n in range(200)], 4)
    assert len(chart.data[0].x) == MAX_BARS
    assert chart.data[0].x[0] == 0
    assert round(chart.data[0].x[-1], 6) == 19.9


def test_nothing_recorded_is_said() -> None:
    assert says(lost_by_setting([], 8)).endswith("No setting has recorded loads.")
