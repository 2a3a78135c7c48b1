"""How many lines stay apart: a colour and a dash for each name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from evenload.dashboard.charts.style import CATEGORIES, DASHES, LOW_TO_HIGH, ramp


class Look(NamedTuple):
    colour: str
    dash: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """The same look for a name wherever the same names are drawn; of very many a ramp."""
    if len(names) > len(CATEGORIES) * len(DASHES):
        colours = ramp(LOW_TO_HIGH, len(names))
        return {name: Look(colour, "solid") for name, colour in zip(names, colours, strict=True)}
    return {
        name: Look(
            CATEGORIES[place % len(CATEGORIES)], DASHES[place // len(CATEGORIES) % len(DASHES)]
        )
        for place, name in enumerate(names)
    }
