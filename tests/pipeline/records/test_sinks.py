from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest

from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.records.sinks import SinkGroup, default_sinks
from evenload.pipeline.settings import Settings

Identity = Callable[..., RunIdentity]
Record = Callable[..., StepRecord]


class Recorder:
    """Records its calls, and raises at those named in `fails`."""

    def __init__(self, *fails: str) -> None:
        self.errors = 0
        self.calls: list[str] = []
        self._fails = fails

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call in self._fails:
            raise RuntimeError(f"{call} is broken")

    def start(self, run: RunIdentity) -> None:
        self._note("start")

    def log_steps(self, records: Sequence[StepRecord]) -> None:
        self._note("log_steps")

    def log_eval(self, record: EvalRecord) -> None:
        self._note("log_eval")

    def checkpoint(self) -> None:
        self._note("checkpoint")

    def close(self) -> None:
        self._note("close")


def test_every_call_reaches_every_sink_in_order(
    identity: Identity, record: Record, evaluation: EvalRecord
) -> None:
    sinks = [Recorder(), Recorder()]
    group = SinkGroup(sinks)
    group.start(identity())
    group.log_steps([record(1)])
    group.checkpoint()
    group.log_eval(evaluation)
    group.close()
    expected = ["start", "log_steps", "checkpoint", "log_eval", "close"]
    assert [sink.calls for sink in sinks] == [expected, expected]
    assert group.errors == 0


def test_sink_that_fails_later_is_counted_and_the_others_continue(
    identity: Identity, record: Record, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Recorder("log_steps", "close"), Recorder()
    group = SinkGroup([broken, sound])
    group.start(identity())
    with caplog.at_level(logging.ERROR):
        group.log_steps([record(1)])
        group.log_steps([record(2)])
        group.close()
    assert sound.calls == ["start", "log_steps", "log_steps", "close"]
    assert group.errors == 3
    assert [entry.message for entry in caplog.records] == [
        "Recorder failed; training continues without it"
    ]


def test_errors_of_the_sinks_add_up(identity: Identity) -> None:
    sinks = [Recorder(), Recorder()]
    group = SinkGroup(sinks)
    group.start(identity())
    sinks[0].errors, sinks[1].errors = 2, 3
    assert group.errors == 5


def test_sink_that_cannot_start_is_fatal_and_the_started_ones_are_closed(
    identity: Identity,
) -> None:
    sinks = [Recorder(), Recorder("start"), Recorder()]
    group = SinkGroup(sinks)
    with pytest.raises(RuntimeError, match="start is broken"):
        group.start(identity())
    group.close()
    assert [sink.calls for sink in sinks] == [["start", "close"], ["start"], []]


def test_default_sinks_write_shards(settings: Settings, identity: Identity, record: Record) -> None:
    group = default_sinks(settings, identity())
    group.start(identity())
    group.log_steps([record(step) for step in range(1, 11)])
    group.close()
    assert group.errors == 0
    assert len(read_history(settings.trial_dir(identity().digest)).step_S) == 10
