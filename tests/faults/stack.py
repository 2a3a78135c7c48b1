"""A cluster on this machine: PostgreSQL, MLflow, two Ray nodes and `evenload serve`.

Each part can be killed and started again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import SweepState, TrialRecord, TrialState
from evenload.pipeline.store.sweep_store import SweepStore
from tests.faults.outcome import check_runs
from tests.faults.services import Postgres, Service, free_port, until

BIN = Path(sys.executable).parent
LEASE_SECONDS, HEARTBEAT_SECONDS = 15.0, 1.0
VICTIMS = ("train actor", "eval actor", "coordinator", "ray head", "node", "mlflow", "database")


class Stack:
    """The cluster.  Args: folder: keeps logs and results"""

    def __init__(self, folder: Path) -> None:
        # The path of a socket has at most 107 characters.
        self._short = Path(tempfile.mkdtemp(prefix="evl-"))
        self._short.chmod(0o755)
        (self._short / "pg").mkdir()
        self.database = Postgres(self._short / "pg")
        self._ports = {name: free_port() for name in ("ray", "mlflow")}
        self.settings = Settings(
            home=folder / "home",
            database_url=self.database.url,
            tracking_uri=f"http://127.0.0.1:{self._ports['mlflow']}",
            lease_seconds=LEASE_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )
        self.settings.root.mkdir(parents=True, exist_ok=True)
        self.mlflow_database = self.settings.root / "mlflow.db"
        self._folder = folder
        self.store = SweepStore(self.settings.store_url)
        self._mlflow = self._service("mlflow", self._mlflow_command(), self._mlflow_answers)
        self._head = self._service("ray head", self._head_command(), self._head_answers)
        self._node = self._service("node", self._node_command())
        self._coordinator = self._service("coordinator", self._serve_command())
        self.services = {
            "database": self.database.service,
            "mlflow": self._mlflow,
            "ray head": self._head,
            "node": self._node,
            "coordinator": self._coordinator,
        }

    def __enter__(self) -> Self:
        try:
            for service in self.services.values():
                service.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.store.close()
        for service in reversed(self.services.values()):
            service.end()
        shutil.rmtree(self._short, ignore_errors=True)

    def submit(self, spec: SweepSpec) -> str:
        self.store.migrate()
        return self.store.submit(spec)

    def trials(self, sweep_id: str) -> list[TrialRecord]:
        """The trials of the sweep; none while the database is away."""
        try:
            return self.store.trials(sweep_id)
        except StoreUnavailable:
            return []

    def until_finished(self, sweep_id: str, seconds: float) -> None:
        def is_finished() -> bool:
            self.keep_alive()
            try:
                return self.store.sweep(sweep_id).state is SweepState.FINISHED
            except StoreUnavailable:
                return False

        until(is_finished, seconds, f"the end of {sweep_id}", every=0.5)

    def until_training(self, sweep_id: str, seconds: float = 600) -> None:
        def has_begun() -> bool:
            return any(
                trial.state is TrialState.TRAINING
                and any((self.settings.trial_dir(trial.digest) / "checkpoints").glob("step-*.pt"))
                for trial in self.trials(sweep_id)
            )

        until(has_begun, seconds, f"{sweep_id} trains", every=0.05)

    def until_runs_are_right(self, sweep_id: str, seconds: float = 60) -> None:
        """Waits until `evenload serve` has ended the runs of a finished sweep."""

        def are_right() -> bool:
            try:
                check_runs(self.mlflow_database, self.store, sweep_id)
            except AssertionError:
                return False
            return True

        with contextlib.suppress(AssertionError):
            until(are_right, seconds, "the runs in MLflow", every=1)
        check_runs(self.mlflow_database, self.store, sweep_id)

    def crash(self, victim: str, sweep_id: str) -> bool:
        """Kills the victim by SIGKILL and starts it again; False if there is no such worker."""
        if victim.endswith("actor"):
            return self._kill_worker(sweep_id, victim)
        service = self.services[victim]
        service.kill()
        if victim == "ray head":
            # Otherwise the node would try to join the former cluster for ever.
            self._node.kill()
        service.start()
        if victim == "ray head":
            self._node.start()
        return True

    def keep_alive(self) -> None:
        """Restarts services that ended by themselves, as a container engine would."""
        for service in self.services.values():
            if not service.tree():
                service.start()

    def _kill_worker(self, sweep_id: str, kind: str) -> bool:
        state = TrialState.TRAINING if kind == "train actor" else TrialState.EVALUATING
        workers = (t.worker for t in self.trials(sweep_id) if t.state is state and t.worker)
        worker = next(workers, None)
        if worker is None:
            return False
        try:
            psutil.Process(int(worker.rpartition(":")[2])).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return False
        return True

    def _service(
        self, name: str, command: list[str], is_ready: Callable[[], bool] = lambda: True
    ) -> Service:
        return Service(name, command, self._folder, self._environment(), is_ready)

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "EVENLOAD_"))}
        return inherited | {
            "EVENLOAD_HOME": str(self.settings.root),
            "EVENLOAD_DATABASE_URL": self.settings.store_url,
            "EVENLOAD_TRACKING_URI": self.settings.mlflow_uri,
            "EVENLOAD_LEASE_SECONDS": str(LEASE_SECONDS),
            "EVENLOAD_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "GIT_PYTHON_REFRESH": "quiet",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            # A busy machine with two cores must not be mistaken for a dead one.
            "RAY_health_check_timeout_ms": "30000",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
            "PYTHONPATH": str(Path.cwd()),
        }

    def _mlflow_command(self) -> list[str]:
        server = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"]
        artifacts = (self.settings.root / "artifacts").as_uri()
        files = ["--backend-store-uri", f"sqlite:///{self.mlflow_database}"]
        files += ["--default-artifact-root", artifacts]
        return [*server, "--port", str(self._ports["mlflow"]), *files]

    def _mlflow_answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.settings.mlflow_uri}/health", timeout=5).close()
        except OSError:
            return False
        return True

    def _head_command(self) -> list[str]:
        options = [f"--port={self._ports['ray']}", f"--temp-dir={self._short / 'ray'}"]
        return [str(BIN / "ray"), "start", "--head", "--include-dashboard=false", *options, *NODE]

    def _head_answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._ports["ray"]), timeout=5).close()
        except OSError:
            return False
        return True

    def _node_command(self) -> list[str]:
        return [str(BIN / "ray"), "start", f"--address={self._address}", *NODE]

    def _serve_command(self) -> list[str]:
        health = ["--health-file", str(self._folder / "healthy")]
        serve = ["serve", "--address", self._address, "--slots", "2", "--device", "cpu", *health]
        return [str(BIN / "evenload"), *serve]

    @property
    def _address(self) -> str:
        return f"127.0.0.1:{self._ports['ray']}"


NODE = ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000", "--block"]
