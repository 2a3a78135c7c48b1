from __future__ import annotations

import io

import numpy as np
import pandas as pd

from evenload.dashboard.exports import FORMATS, chart_table
from evenload.pipeline.charts.front import Point, pareto_front
from evenload.pipeline.charts.loads import load_over_time
from evenload.pipeline.charts.over_time import max_vio_over_time
from evenload.pipeline.charts.style import Chart

STEPS = np.array([1, 11, 21], np.int32)


def _loads() -> Chart:
    return load_over_time(np.array([[100, 50], [200, -1], [30, 170]], np.int16), STEPS)


def test_heatmap_exports_counted_cells_with_axis_titles_as_columns() -> None:
    table = chart_table(_loads())
    assert list(table.columns) == ["optimizer step", "expert", "load, % of the fair share"]
    assert table.to_numpy().tolist() == [
        [1, 0, 100],
        [11, 0, 200],
        [21, 0, 30],
        [1, 1, 50],
        [21, 1, 170],
    ]


def test_lines_export_names_and_steps() -> None:
    vio_BL = np.array([[0.5, 0.25], [0.4, 0.2], [0.3, 0.1]], np.float32)
    for step_B in (STEPS, np.array([1, 11, 41], np.int32)):
        table = chart_table(max_vio_over_time(vio_BL, step_B, ["1", "2"], 0.125))
        assert list(table.columns) == [
            "series",
            "optimizer step",
            "MaxVio (max load / fair share − 1)",
        ]
        second = table[table.series == "layer 2"]
        assert second["optimizer step"].tolist() == step_B.tolist()
        np.testing.assert_array_equal(second.iloc[:, 2], vio_BL[:, 1])
        assert "sampling floor 0.12" in set(table.series)


def test_files_contain_the_table() -> None:
    table = chart_table(_loads())
    pd.testing.assert_frame_equal(
        pd.read_parquet(io.BytesIO(FORMATS["parquet"].write(table))), table
    )
    read = pd.read_csv(io.BytesIO(FORMATS["csv"].written(lambda: table)))
    assert read.to_numpy().tolist() == table.to_numpy().tolist()


def test_charts_of_several_tables_export_all_and_an_empty_one_nothing() -> None:
    front = chart_table(pareto_front([Point("sign 0.01", "settings", 0.2, 2.3, on_front=True)]))
    assert front.setting.dropna().tolist() == ["sign 0.01"]
    assert len(front) == 1  # the corners of the front are no setting
    assert chart_table(pareto_front([])).empty
