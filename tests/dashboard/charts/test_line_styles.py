from __future__ import annotations

import pytest

from evenload.dashboard.charts.line_styles import looks


@pytest.mark.parametrize("count", [0, 1, 9, 32, 33, 60])
def test_every_name_looks_its_own(count: int) -> None:
    found = looks([str(place) for place in range(count)])
    assert len(set(found.values())) == count
