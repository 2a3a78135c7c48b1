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

from evenload.pipeline.records.mlflow_runs import FAILURES, is_outage, probe
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState
from tests.pipeline.records.mlflow_runs import Projected, logged_steps

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


def test_probe_tells_why_a_server_does_not_answer(settings: Settings) -> None:
    away = Settings(home=settings.home, tracking_uri=f"http://127.0.0.1:{_free_port()}")
    assert "Max retries exceeded" in str(probe(away))


@pytest.mark.slow
def test_points_of_an_outage_arrive_after_it_and_none_twice(
    server: Server, tmp_path: Path, identity: Identity, record: Record
) -> None:
    settings = Settings(home=tmp_path / "home", tracking_uri=server.uri)
    projected, failures = Projected(settings, identity()), []
    for step in range(1, 101):
        if step == 35:
            server.kill()
        if step == 75:
            server.start()
        projected.record([record(step)], checkpoint=step)
        if step % 15 == 0:
            try:
                projected.project()
            except FAILURES as error:
                failures.append(is_outage(error))
    assert failures == [True, True]
    projected.sink.close()
    projected.project(TrialState.COMPLETED, result={"max_vio": 0.5})
    client = MlflowClient(tracking_uri=server.uri)
    assert logged_steps(client, projected.run_id) == list(range(10, 101, 10))
    assert logged_steps(client, projected.run_id, "bias_spread") == list(range(10, 101, 10))
    run = client.get_run(projected.run_id)
    assert (run.info.status, run.data.metrics["final/max_vio"]) == ("FINISHED", 0.5)
    assert len(client.list_artifacts(projected.run_id, "expert_load")) > 3


CALLS = ("log_batch", "log_text", "log_dict", "log_artifact", "list_artifacts", "set_terminated")


@pytest.mark.parametrize("is_delivered", [False, True])
def test_an_outage_at_any_call_loses_no_point_and_doubles_none(
    is_delivered: bool,
    client: MlflowClient,
    projected: Projected,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Call 1 fails, then call 2 and so on, each time followed by another process's attempt."""
    projected.record([record(step) for step in range(1, 101)])
    projected.project()
    ended = {"state": TrialState.COMPLETED, "result": {"max_vio": 0.4}, "error": "e"}
    failing = 0
    while True:
        failing += 1
        left = [failing]

        def cut(name: str, left: list[int] = left) -> Any:
            whole = getattr(MlflowClient, name)

            def call(*arguments: Any, **fields: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    if is_delivered:
                        whole(*arguments, **fields)
                    raise ConnectionResetError
                return whole(*arguments, **fields)

            return call

        with monkeypatch.context() as patched:
            for name in CALLS:
                patched.setattr(MlflowClient, name, cut(name))
            try:
                projected.project(afresh=True, **ended)
            except ConnectionResetError:
                pass
            else:
                break
        steps = logged_steps(client, projected.run_id)
        assert steps == sorted(set(steps)), failing
    assert failing > 8
    assert logged_steps(client, projected.run_id) == list(range(10, 101, 10))
    assert logged_steps(client, projected.run_id, "final/max_vio") == [100]
    assert client.get_run(projected.run_id).info.status == "FINISHED"
