from __future__ import annotations

from collections.abc import Callable

import pytest

from evenload.pipeline.records.outbox import MAX_WAIT_SECONDS, Outbox


class World:
    """A clock that tests set, and a server that can be away or refuse deliveries."""

    def __init__(self) -> None:
        self.now = 0.0
        self.error: Exception | None = None
        self.delivered: list[int] = []
        self.attempts = 0
        self.seconds_per_failure = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.001)

    def delivery(self, number: int) -> Callable[[], None]:
        def deliver() -> None:
            self.attempts += 1
            if self.error is not None:
                self.now += self.seconds_per_failure
                raise self.error
            self.delivered.append(number)

        return deliver


@pytest.fixture
def world() -> World:
    return World()


def _outbox(world: World, max_pending: int = 10_000) -> Outbox:
    return Outbox(
        (OSError, KeyError),
        lambda error: isinstance(error, OSError),
        max_pending,
        clock=lambda: world.now,
        sleep=world.sleep,
    )


def _put(outbox: Outbox, world: World, numbers: range) -> None:
    for number in numbers:
        outbox.put(world.delivery(number))
        outbox.flush()


def test_deliveries_that_an_outage_delayed_arrive_in_order(world: World) -> None:
    outbox = _outbox(world)
    world.error = ConnectionRefusedError()
    _put(outbox, world, range(5))
    world.error = None
    world.now += MAX_WAIT_SECONDS
    _put(outbox, world, range(5, 6))
    assert world.delivered == [0, 1, 2, 3, 4, 5]
    assert (outbox.errors, len(outbox)) == (1, 0)


def test_server_that_is_away_is_tried_less_and_less_often(world: World) -> None:
    outbox = _outbox(world)
    world.error = ConnectionRefusedError()
    for number in range(600):
        world.now = float(number)
        _put(outbox, world, range(number, number + 1))
    assert world.attempts == 15  # at 0, 1, 3, 7, 15, 31, 63 s, then each minute
    assert outbox.errors == 15


def test_server_that_hangs_costs_a_tenth_of_the_time(world: World) -> None:
    outbox = _outbox(world)
    world.error, world.seconds_per_failure = TimeoutError(), 15.0
    _put(outbox, world, range(1))
    world.now = 15 + 149.0
    _put(outbox, world, range(1, 2))
    assert world.attempts == 1
    world.now = 15 + 150.0
    outbox.flush()
    assert world.attempts == 2


def test_refused_delivery_is_dropped_and_the_next_is_delivered(world: World) -> None:
    outbox = _outbox(world)
    world.error = KeyError("bad metric name")
    _put(outbox, world, range(1))
    world.error = None
    _put(outbox, world, range(1, 3))
    assert world.delivered == [1, 2]
    assert outbox.errors == 1


def test_oldest_deliveries_beyond_the_bound_are_dropped(world: World) -> None:
    outbox = _outbox(world, max_pending=3)
    world.error = ConnectionRefusedError()
    _put(outbox, world, range(5))
    assert (len(outbox), outbox.errors) == (3, 1 + 2)
    world.error = None
    outbox.drain(10.0)
    assert world.delivered == [2, 3, 4]


def test_drain_waits_for_the_server_within_its_patience(world: World) -> None:
    outbox = _outbox(world)
    world.error = ConnectionRefusedError()
    _put(outbox, world, range(2))
    started = world.now
    outbox.drain(30.0)
    assert world.now - started == pytest.approx(30.0, abs=0.1)
    assert (world.delivered, len(outbox)) == ([], 0)
    assert outbox.errors == world.attempts + 2


def test_a_programming_error_is_raised(world: World) -> None:
    outbox = _outbox(world)
    world.error = TypeError("wrong argument")
    with pytest.raises(TypeError, match="wrong argument"):
        _put(outbox, world, range(1))
