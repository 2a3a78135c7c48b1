from __future__ import annotations

import math

import pytest

from evenload.pipeline.figures.wording import counted, duration, listed, number, scaled


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_durations_are_written_in_at_most_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_numbers_carry_their_unit() -> None:
    assert number(12345.678, ",.1f", " tokens/s") == "12,345.7 tokens/s"
    assert number(math.nan, ",.2f", " %") == number(None) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.56e15, "4.56 PFLOP"), (1500, "1.5 kFLOP"), (999, "999 FLOP"), (0.25, "0.25 FLOP")],
)
def test_large_numbers_take_a_prefix(value: float, text: str) -> None:
    assert scaled(value, "FLOP") == text
    assert scaled(value) == text.removesuffix("FLOP").strip()


def test_counts_and_lists_read_as_english() -> None:
    assert (counted(1, "trial"), counted(3000, "trial")) == ("1 trial", "3,000 trials")
    assert (listed(["a"]), listed(["a", "b", "c"])) == ("a", "a, b and c")
