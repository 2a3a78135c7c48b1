from __future__ import annotations

import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from evenload.pipeline.report import svg
from evenload.pipeline.report.svg import Scale


def test_a_scale_maps_its_ends_and_its_middle() -> None:
    assert [Scale(0, 10, 100, 300).at(v) for v in (0, 5, 10)] == [100, 200, 300]
    log = Scale(0.01, 100, 0, 40, is_log=True)
    assert [round(log.at(v), 6) for v in (0.01, 1, 100)] == [0, 20, 40]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (2.21, 2.34, [2.25, 2.3]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert Scale(low, high, 0, 1).ticks() == pytest.approx(ticks)


def test_logarithmic_ticks_are_ones_twos_and_fives() -> None:
    assert Scale(0.1, 3, 0, 1, is_log=True).ticks() == pytest.approx([0.1, 0.2, 0.5, 1, 2])


def test_equal_values_still_make_a_scale() -> None:
    for values in ([0.0], [2.5, 2.5]):
        scale = svg.scale_over(values, 0, 100)
        assert scale.low < values[0] < scale.high
        assert scale.ticks()
    assert svg.scale_over([3.0], 0, 100, is_log=True).low > 0


def test_a_map_keeps_every_colour() -> None:
    colour_YX3 = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    image = Image.open(io.BytesIO(svg.png(colour_YX3)))
    assert np.array_equal(np.asarray(image), colour_YX3)


def test_text_cannot_become_an_element() -> None:
    drawn = svg.drawing(svg.text("<script>&", 1, 2) + svg.tip('"</svg>'), 10, 10, 'says "<b>"')
    root = ET.fromstring(drawn)
    assert [node.tag.rpartition("}")[2] for node in root.iter()] == ["svg", "text", "title"]
    assert root.attrib["aria-label"] == 'says "<b>"'
