"""A tracking server that does not answer, dies, or whose answer is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from evenload.pipeline.errors import TrackingUnavailable
from evenload.pipeline.records.mlflow_sink import MlflowSink, prepare, probe
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState
from tests.pipeline.records.mlflow_runs import logged_steps, run_of, start

Identity = Callable[..., RunIdentity]
Record = Callable[..., StepRecord]


class Server:
    """A real `mlflow server` on a local port, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = _free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers"]
        command += ["1", "--port", str(self._port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self._wait_until_up()

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def _wait_until_up(self) -> None:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=1).close()
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
            else:
                return
        raise TimeoutError((self._folder / "server.log").read_text())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path)
    one.start()
    yield one
    one.kill()


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def test_start_without_a_server_fails_after_its_patience(
    settings: Settings, identity: Identity
) -> None:
    away = Settings(home=settings.home, tracking_uri=f"http://127.0.0.1:{_free_port()}")
    with pytest.raises(TrackingUnavailable, match=r"Max retries exceeded"):
        MlflowSink(away, patience_seconds=0.0).start(identity())
    assert "Max retries exceeded" in str(probe(away))


def test_metrics_of_an_outage_arrive_after_it_and_none_twice(
    server: Server, tmp_path: Path, identity: Identity, record: Record
) -> None:
    settings = Settings(home=tmp_path / "home", tracking_uri=server.uri)
    prepare(settings)
    log = LoadLogSink(settings.trial_dir(identity().digest))
    log.start(identity())
    sink = start(settings, identity())
    for step in range(1, 101):
        if step == 35:
            server.kill()
        for one in (log, sink):
            one.log_steps([record(step)])
        if step == 75:
            server.start()
    assert sink.errors > 0
    for one in (log, sink):
        one.close(TrialState.COMPLETED, {"max_vio": 0.5})
    client = MlflowClient(tracking_uri=server.uri)
    assert logged_steps(client, sink) == list(range(10, 101, 10))
    assert logged_steps(client, sink, "bias_spread") == list(range(10, 101, 10))
    run = run_of(client, sink)
    assert (run.info.status, run.data.metrics["final/max_vio"]) == ("FINISHED", 0.5)
    assert run.data.tags["tracking_errors"] == str(sink.errors)
    assert len(client.list_artifacts(str(sink.run_id), "expert_load")) == 3


def test_delivery_whose_answer_was_lost_is_repeated_without_a_second_point(
    client: MlflowClient,
    started: MlflowSink,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log_batch = started._client.log_batch
    calls: list[str] = []

    def delivered_but_unanswered(*args: Any, **fields: Any) -> None:
        log_batch(*args, **fields)
        calls.append("once")
        if len(calls) == 1:
            raise ConnectionResetError

    monkeypatch.setattr(started._client, "log_batch", delivered_but_unanswered)
    started.log_steps([record(10)])
    time.sleep(0.01)  # so that a timestamp of the repetition would differ
    started.close(TrialState.TRAINED, {})
    assert len(calls) == 2
    assert logged_steps(client, started) == [10]
