from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evenload.pipeline.charts.grid import Grid, sweep_grid
from evenload.pipeline.charts.style import BAD, GOOD, Chart, description, document, tables
from evenload.pipeline.figures.metrics import METRICS


def _grid(values: list[list[float]], notes: list[list[str]] | None = None) -> Grid:
    value_RC = np.array(values, np.float32)
    blank = [["" for _ in row] for row in values]
    settings = [f"sign {10.0**-row:g}" for row in range(len(values))]
    return Grid(
        settings, [f"{8 * 2**c} experts" for c in range(len(values[0]))], value_RC, notes or blank
    )


def _scale(chart: Chart) -> dict[str, Any]:
    scale: dict[str, Any] = document(chart)["layer"][0]["encoding"]["color"]["scale"]
    return scale


def test_cells_have_a_number_or_a_reason() -> None:
    grid = _grid([[0.25, 0.5], [1.0, np.nan]], [["", ""], ["", "failed"]])
    chart = sweep_grid(grid, METRICS["max_vio"])
    columns = tables(chart)[0].to_pydict()
    assert columns["shown"] == ["0.25", "0.50", "1.00", "failed"]
    assert columns["setting"] == ["sign 1", "sign 1", "sign 0.1", "sign 0.1"]
    assert columns["experts per layer"] == ["8", "16", "8", "16"]
    assert tables(chart)[0][2].to_pylist() == [0.25, 0.5, 1.0, None]
    assert "Best is sign 1 at 8 experts: 0.25 × fair share." in description(chart)


def test_shares_are_percent() -> None:
    chart = sweep_grid(_grid([[2.5]]), METRICS["idle_frac"])
    assert tables(chart)[0]["shown"].to_pylist() == ["2.5%"]
    assert description(chart).endswith("2.5%.")


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("max_vio", [[0.1, 0.2]], (0.0, 1.0)),
        ("max_vio", [[0.1, 4.0]], (0.0, 4.0)),
        ("val_bits_per_byte", [[2.30, 2.31]], (2.30, 2.35)),
        ("val_bits_per_byte", [[2.30, 3.00]], (2.30, 3.00)),
        ("effective_util", [[90.0, 80.0]], (50.0, 100.0)),
        ("effective_util", [[90.0, 20.0]], (20.0, 100.0)),
        ("idle_frac", [[np.nan, np.nan]], (0.0, 5.0)),
        ("val_bits_per_byte", [[np.nan, np.nan]], (0.0, 0.05)),
    ],
)
def test_colours_cover_at_least_a_difference_that_matters(
    metric: str, values: list[list[float]], expected: tuple[float, float]
) -> None:
    domain = _scale(sweep_grid(_grid(values), METRICS[metric]))["domain"]
    assert (domain[0], domain[-1]) == pytest.approx(expected)


def test_good_cells_have_the_light_colour_in_both_directions() -> None:
    low, high = (
        _scale(sweep_grid(_grid([[1.0]]), METRICS[name]))["range"]
        for name in ("max_vio", "effective_util")
    )
    assert (low[0], low[-1]) == (high[-1], high[0]) == (GOOD, BAD)
