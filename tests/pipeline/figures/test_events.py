"""Events in constructed loads: 2 layers of 8 experts, top-2, a fair load of 50 per expert."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evenload.pipeline.figures.events import Event, find_events, told
from evenload.pipeline.figures.loads import idle_streak, max_vio

STEPS, LARGEST, FLOOR = 300, 8 / 2 - 1, 0.1


@pytest.fixture
def count_SLE() -> NDArray[np.int32]:
    return np.full((STEPS, 2, 8), 50, np.int32)


def found(count_SLE: NDArray[np.int32], width: int = 1, **more: Any) -> list[Event]:
    """The events, with `width` steps per bin."""
    first = np.arange(0, len(count_SLE), width)
    vio_BL = np.maximum.reduceat(max_vio(count_SLE), first)
    streak_LBE = np.maximum.reduceat(idle_streak(count_SLE), first).swapaxes(0, 1)
    terms = {"largest": LARGEST, "floor": FLOOR} | more
    return find_events(first + 1, len(count_SLE), vio_BL, streak_LBE, **terms)


def to_one(count_SLE: NDArray[np.int32], steps: slice, layer: int, expert: int, load: int) -> None:
    """Gives an expert this load in some steps; the others share the rest."""
    count_SLE[steps, layer] = (400 - load) // 7
    count_SLE[steps, layer, expert] = load


def test_an_even_run_has_no_events(count_SLE: Any) -> None:
    assert found(count_SLE) == []
    assert found(count_SLE[:0]) == []


def test_a_collapse_lasts_while_maxvio_is_half_of_the_largest(count_SLE: Any) -> None:
    to_one(count_SLE, slice(99, 150), 1, 3, 200)  # steps 100 to 150; MaxVio 3 of at most 3
    to_one(count_SLE, slice(150, 160), 1, 3, 80)  # MaxVio 0.6: no collapse, and not recovered
    collapse, recovery = found(count_SLE)
    assert collapse == ("collapse", 1, None, 100, 150, pytest.approx(3.0, abs=0.05))
    assert recovery[:5] == ("recovery", 1, None, 161, 161)
    assert told(collapse, ["2", "7"]) == f"layer 7: collapse, MaxVio up to {collapse.value:.2f}"


def test_a_collapse_that_lasts_has_no_recovery(count_SLE: Any) -> None:
    to_one(count_SLE, slice(200, None), 0, 0, 180)
    (event,) = found(count_SLE)
    assert event[:5] == ("collapse", 0, None, 201, 300)


def test_idle_streaks_of_enough_steps_are_events(count_SLE: Any) -> None:
    count_SLE[50:170, 0, 5] = 0  # steps 51 to 170
    count_SLE[50:120, 1, 2] = 0  # too short
    idle, recovery = found(count_SLE)
    assert idle == ("idle", 0, 5, 51, 170, 120.0)
    assert recovery[:5] == ("recovery", 0, 5, 171, 171)
    assert told(idle, ["0", "1"]) == "expert 5 of layer 0 idle for 120 steps"
    assert len([e for e in found(count_SLE, least_steps=70) if e.kind == "idle"]) == 2


def test_a_spike_is_high_against_what_was_before(count_SLE: Any) -> None:
    to_one(count_SLE, slice(0, None), 0, 1, 60)  # MaxVio 0.2 all the time
    to_one(count_SLE, slice(120, 122), 0, 1, 100)  # MaxVio 1
    to_one(count_SLE, slice(5, 6), 1, 1, 100)  # too early to be compared
    (spike,) = found(count_SLE)
    assert spike[:5] == ("spike", 0, None, 121, 122)
    assert spike.value == pytest.approx(1.0, abs=0.05)


def test_bins_keep_what_happened_within_them(count_SLE: Any) -> None:
    to_one(count_SLE, slice(204, 205), 0, 1, 390)
    count_SLE[50:170, 1, 5] = 0
    kinds = {event.kind: event for event in found(count_SLE, width=10)}
    assert kinds["collapse"][3:5] == (201, 210)
    assert abs(kinds["idle"].first_step - 51) <= 10
    assert abs(kinds["idle"].last_step - 170) <= 10
    assert kinds["idle"].value == 120


def test_only_the_longest_idle_streaks_are_kept() -> None:
    streak_LBE = np.zeros((1, 5, 500), int)
    streak_LBE[0, 2] = 100 + np.arange(500)
    vio_BL, step_B = np.zeros((5, 1)), np.arange(1, 6)
    events = find_events(step_B, 5, vio_BL, streak_LBE, largest=3, floor=0.1)
    kept = {event.expert for event in events if event.kind == "idle"}
    assert kept == set(range(300, 500))
