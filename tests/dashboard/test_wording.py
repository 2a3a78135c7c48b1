from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from evenload.dashboard.wording import SWEEP_STATES, TRIAL_STATES, ago, duration, number, short
from evenload.pipeline.states import SweepState, TrialState


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7800, "2 h 10 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
        (math.nan, "–"),
    ],
)
def test_durations_read_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_told_from_now() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert ago(now - timedelta(minutes=3), now) == "3 min 00 s ago"
    assert ago(None) == "–"


def test_numbers_carry_their_unit() -> None:
    assert number(12345.678, 1, " tokens/s") == "12,345.7 tokens/s"
    assert number(math.nan, 2, " %") == "–"


def test_every_state_has_a_wording_of_its_own() -> None:
    assert TRIAL_STATES.keys() == set(TrialState)
    assert SWEEP_STATES.keys() == set(SweepState)
    assert len({wording.text for wording in TRIAL_STATES.values()}) == len(TrialState)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10k"),
        (12_345, "12.3k"),
        (100_000, "100k"),
        (999_999, "1,000k"),
        (1_500_000, "1.5M"),
        (2_000_000_000, "2G"),
    ],
)
def test_counts_stay_short(count: int, text: str) -> None:
    assert short(count) == text
