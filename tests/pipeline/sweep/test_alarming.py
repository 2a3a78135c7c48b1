"""Alarms, sent to a real HTTP server on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, text

from evenload.pipeline import alarms
from evenload.pipeline.alarms import Alarm, NotDelivered, receiver, send
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.redaction import RedactingFormatter
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import SweepRecord, SweepState, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import alarming as module
from evenload.pipeline.sweep.alarming import Watch, Watched, alarming, due
from evenload.pipeline.sweep.answer import answer_of
from tests.pipeline.sweep.test_answer import Make, make, sweep
from tests.webhook_receiver import PATH, Receiver, receiving

__all__ = ["make"]  # a fixture

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def chat() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def settings(chat: Receiver, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, alert_url=chat.url, _env_file=None)


@pytest.fixture
def failed(store: SweepStore, add_sweep: Callable[[int], str]) -> str:
    """A sweep that has ended with a trial that failed."""
    sweep_id = add_sweep(1)
    claim = store.claim("t0", WorkKind.TRAIN, "w", 60.0)
    assert claim is not None
    store.finish(claim, TrialState.FAILED, error="Traceback\nValueError: no <luck>")
    store.finish_sweep(sweep_id)
    return sweep_id


def record(**changes: Any) -> SweepRecord:
    blank = SweepRecord("s-1", "s", {}, SweepState.ACTIVE, None, NOW, None)
    return replace(blank, **changes)


def kinds(found: list[Alarm]) -> list[tuple[str, str | None]]:
    return [alarm.key for alarm in found]


def test_dead_experts_of_running_and_ended_trials_are_due(make: Make) -> None:
    none, sign, quantile = (
        replace(t, digest=t.label.split()[0]) for t in make([3.0] * 3, [1.0] * 3, [0])
    )
    ended = replace(sign, result=sign.result | {"dead_tenth": 0.25})
    found = due(
        Watched(record(), [none, ended, quantile], None, {"none": 0.5, "quantile": 0.0}), []
    )
    assert kinds(found) == [("dead-experts", "sign")]  # `none` is the control
    assert "25.0 % of the experts" in found[0].text
    assert found[0].id == "dead-experts/s-1/sign"
    running = Watched(record(), [replace(quantile, result={})], None, {"quantile": 0.001})
    assert kinds(due(running, [])) == [("dead-experts", "quantile")]


def test_a_verdict_is_due_with_the_first_claim(make: Make) -> None:
    few = make([3.0, 2.999, 3.001], [4.0, 0.5, 0.2], seeds=[0])
    many = make([3.0, 2.999, 3.001], [4.0, 0.5, 0.2])
    silent, claims = (answer_of(trials, sweep()) for trials in (few, many))
    assert due(Watched(record(), few, silent), []) == []
    (alarm,) = due(Watched(record(), many, claims), [])
    assert alarm.key == ("verdict", None)
    assert "quantile" in alarm.text
    assert due(Watched(record(), many, claims), [("verdict", None)]) == []


@pytest.mark.parametrize(
    ("state", "note", "trial_state", "said"),
    [
        (SweepState.PAUSED, "no memory", TrialState.QUEUED, "paused: no memory"),
        (SweepState.PAUSED, None, TrialState.QUEUED, None),  # by a user
        (SweepState.FINISHED, None, TrialState.FAILED, "1 of 1 trial failed: ValueError: x"),
        (SweepState.ACTIVE, None, TrialState.FAILED, None),  # the rest still runs
        (SweepState.FINISHED, None, TrialState.COMPLETED, None),
        (SweepState.CANCELLED, None, TrialState.FAILED, None),
    ],
)
def test_a_sweep_fails_if_the_program_pauses_it_or_trials_failed(
    make: Make, state: SweepState, note: str | None, trial_state: TrialState, said: str | None
) -> None:
    trial = replace(
        make([3.0] * 3, [1.0] * 3, [0])[1], state=trial_state, error="T\nValueError: x\n"
    )
    found = due(Watched(record(state=state, note=note), [trial]), [])
    assert [said in alarm.text for alarm in found] == ([True] if said else [])


def test_each_alarm_is_sent_once_also_after_a_restart(
    store: SweepStore, failed: str, settings: Settings, chat: Receiver
) -> None:
    assert Watch(store, settings).look()
    assert Watch(store, settings).look()
    (got,) = chat.got
    assert got == {
        "text": f"evenload: {failed} has ended; 1 of 1 trial failed: ValueError: no &lt;luck&gt;",
        "id": f"sweep-failed/{failed}",
        "key": f"sweep-failed/{failed}",
        "kind": "sweep-failed",
        "about": failed,
        "trial": None,
    }
    store.retry_failed(failed)
    claim = store.claim("t0", WorkKind.TRAIN, "w", 60.0)
    assert claim is not None
    store.finish(claim, TrialState.FAILED, error="ValueError: again")
    store.finish_sweep(failed)
    assert Watch(store, settings).look()
    assert len(chat.got) == 2  # it was taken up again, and failed again


def test_a_receiver_in_trouble_gets_the_alarm_later(
    store: SweepStore, failed: str, settings: Settings, chat: Receiver,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    chat.answers = [500, 404, 302]
    watch = Watch(store, settings)
    assert [watch.look() for _ in range(4)] == [False, False, False, True]
    assert [got["id"] for got in chat.got] == [f"sweep-failed/{failed}"]
    said = [record.getMessage() for record in caplog.records]
    assert [code in line for code, line in zip(("500", "404", "302"), said, strict=True)] == [
        True
    ] * 3
    assert not any("a-secret-path" in line for line in said)


def test_one_refused_alarm_does_not_keep_others_back(
    store: SweepStore, add_sweep: Callable[[int], str], settings: Settings, chat: Receiver
) -> None:
    add_sweep(2)
    for digest in ("t0", "t1"):
        claim = store.claim(digest, WorkKind.TRAIN, "w", 60.0)
        assert claim is not None
        store.finish(claim, TrialState.TRAINED, {"dead_tenth": 0.5})
    chat.answers = [400]
    watch = Watch(store, settings)
    assert not watch.look()
    assert [got["trial"] for got in chat.got] == ["t1"]
    assert watch.look()
    assert [got["trial"] for got in chat.got] == ["t1", "t0"]


def test_a_receiver_that_is_down_or_slow_ends_nothing(
    store: SweepStore, failed: str, settings: Settings, chat: Receiver,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(alarms, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(module, "LAST_SECONDS", 0.05)
    chat.delay_seconds = 0.3
    began = time.monotonic()
    with alarming(store, settings):
        pass
    assert "alarms wait" in caplog.text
    assert time.monotonic() - began < 5.0
    nobody = Settings(home=settings.home, alert_url="http://127.0.0.1:1/x")
    assert not Watch(store, nobody).look()
    assert "http://127.0.0.1:1/*** does not answer: " in caplog.text


def test_the_thread_sends_what_is_due_at_the_end(
    store: SweepStore, failed: str, settings: Settings, chat: Receiver
) -> None:
    with alarming(store, settings):
        assert chat.got == []
    assert len(chat.got) == 1


def test_a_sweep_that_cannot_be_looked_at_is_said(
    store: SweepStore, failed: str, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "due", lambda *_: 1 / 0)
    assert not Watch(store, settings).look()
    assert f"alarms about {failed} wait" in caplog.text


def test_sweeps_that_ended_long_ago_raise_none(
    store: SweepStore, failed: str, settings: Settings, chat: Receiver, tmp_path: Path
) -> None:
    with create_engine(f"sqlite:///{tmp_path / 'store.db'}").begin() as connection:
        connection.execute(text("UPDATE sweep SET finished_at = '2020-01-01 00:00:00.000000'"))
    assert Watch(store, settings).look()
    assert chat.got == []


def test_dead_experts_are_found_in_the_newest_steps_of_a_running_trial(
    settings: Settings, make: Make
) -> None:
    trial = replace(make([3.0] * 3, [1.0] * 3, [0])[1], digest="t0", state=TrialState.TRAINING)
    spec = TrialSpec.model_validate(trial.spec)
    layers, experts = spec.model.num_moe_layers, spec.model.num_experts
    count_LE = np.full((layers, experts), 100, np.int32)
    count_LE[0, 3] = 5
    sink = LoadLogSink(settings.trial_dir("t0"))
    sink.start(RunIdentity("t0", "sign", None, 1, dict(trial.spec)))

    def log(first: int, last: int) -> None:
        bias_LE = np.zeros((layers, experts), np.float32)
        told = (2.0, 0.0, 1.0, 1e-3, 1, 0.1)
        steps = range(first, last + 1)
        sink.log_steps([StepRecord(step, *told, count_LE, bias_LE, 0.0) for step in steps])

    log(1, 99)
    assert np.isnan(module.dead_share(trial, settings))  # too early to say
    log(100, 160)
    assert module.dead_share(trial, settings) == pytest.approx(1 / (layers * experts))


def test_the_address_of_the_webhook_is_a_secret(settings: Settings, chat: Receiver) -> None:
    formatter = RedactingFormatter("%(message)s", settings)
    shown = formatter.format(
        logging.LogRecord("x", 20, "", 0, "%s at %s", (chat.url, PATH[1:]), None)
    )
    assert shown == "*** at ***"
    assert receiver(settings) == f"http://127.0.0.1:{chat.server_port}/***"
    assert "a-secret-path" not in repr(settings)
    with_password = Settings(alert_url="https://me:my-password@hooks.example/T0?token=abc")
    assert receiver(with_password) == "https://hooks.example/***"
    for wrong in ("ftp://host/a-secret-path", "a-secret-path", "https:///a-secret-path"):
        with pytest.raises(ValidationError) as refused:
            Settings(alert_url=wrong)
        assert "a-secret-path" not in str(refused.value)


def test_an_alarm_is_not_sent_on_to_another_address(settings: Settings, chat: Receiver) -> None:
    chat.answers = [302]
    with pytest.raises(NotDelivered, match="302"):
        send(Alarm("verdict", "s", None, "x"), settings)
    assert chat.got == []


def test_without_an_address_nothing_happens(store: SweepStore, tmp_path: Path) -> None:
    with alarming(store, Settings(home=tmp_path)):
        pass
