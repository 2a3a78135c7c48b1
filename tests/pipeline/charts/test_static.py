from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np

from evenload.pipeline.charts.loads import load_over_time
from evenload.pipeline.charts.over_time import loss_curve
from evenload.pipeline.charts.static import to_svg
from evenload.pipeline.charts.style import BEYOND, IDLE, description

STEPS = np.arange(1, 41, dtype=np.int32)


def test_svg_loads_nothing_and_has_a_description() -> None:
    percent_BE = np.full((40, 16), 90, np.int16)
    percent_BE[3, 4:6] = 0, 300
    chart = load_over_time(percent_BE, STEPS)
    drawn = to_svg(chart, 420)
    root = ET.fromstring(drawn)
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", description(chart))
    assert not re.search(r"url\((?!#)|<script|<image|https?://(?!www\.w3\.org/2000/svg)", drawn)
    seen = [node.attrib for node in root.iter() if node.attrib.get("opacity") != "0"]
    fills = [attributes.get("fill") for attributes in seen]
    assert (fills.count(IDLE), fills.count(BEYOND)) == (2, 2)  # a cell and its legend
    assert len(drawn) < 120 * percent_BE.size


def test_pictures_of_a_page_do_not_share_ids() -> None:
    values = np.linspace(2, 1, 40)
    names = [
        set(re.findall(r'id="([^"]+)"|url\(#([^)]+)\)', to_svg(chart, 420)))
        for chart in (
            load_over_time(np.full((40, 4), 90, np.int16), STEPS),
            load_over_time(np.full((40, 4), 80, np.int16), STEPS),
            loss_curve(values, values, STEPS),
        )
    ]
    assert names[0]
    assert not names[0] & names[1]


def test_labels_are_not_rounded() -> None:
    drawn = to_svg(
        loss_curve(np.array([1.0001, 1.0009]), np.array([1.0001, 1.0009]), STEPS[:2]), 400
    )
    assert ">1.0004<" in drawn
