from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from evenload.dashboard.wording import SWEEP_STATES, TRIAL_STATES, ago, short
from evenload.pipeline.states import SweepState, TrialState


def test_times_are_relative_to_now() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert ago(now - timedelta(minutes=3), now) == "3 min 00 s ago"
    assert ago(None) == "–"


def test_every_state_has_a_unique_text() -> None:
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
