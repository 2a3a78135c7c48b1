"""What `name=` of attach leaves in a home, on small models in plain torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from torch import Tensor

import evenload
from evenload.pipeline.records import parquet_files
from evenload.pipeline.records.recorded_runs import RunState, recorded_run, recorded_runs
from evenload.pipeline.records.scores import read_recording
from evenload.pipeline.records.shards import read_history
from evenload.workers.attach import AttachError, Balance, background
from evenload.workers.attach.routers import short_names
from evenload.workers.attach.run_record import RunRecord
from tests.workers.attach import models
from tests.workers.attach.models import PROBE, dense_layer, model, moe_layer, tokens


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FLUSH_SECONDS", 0.01)


class Training:
    """A plain loop over an attached model, and what its recorder saw."""

    def __init__(self, home: Path, trained: Any = None, rule: Any = "sign", **options: Any) -> None:
        self.model = model() if trained is None else trained
        self.seen: list[tuple[int, Tensor, Tensor]] = []
        given = {"probe": PROBE, "added_bias": "keep", "name": "my run", "home": home, **options}
        self.balance: Balance = evenload.attach(
            self.model, rule, recorder=lambda *step: self.seen.append(step), **given
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.balance.watch(self.optimizer)

    def run(self, steps: int) -> Training:
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.model.loss(tokens(seed=self.balance.steps))
            loss.backward()
            self.optimizer.step()
            self.balance.log(loss=loss)
        return self


def test_everything_is_read_back_as_the_training_saw_it(tmp_path: Path) -> None:
    training = Training(tmp_path, total_steps=60).run(12)
    training.balance.detach()
    run = recorded_run(tmp_path, "my run")
    assert (run.source, run.label, run.unit) == ("attach", "sign 0.001", "probability")
    assert run.shape.layers == ("0", "1")
    assert (run.shape.num_experts, run.shape.top_k) == (8, 2)
    assert (run.last_step, run.planned_steps, run.has_loss) == (12, 60, True)
    assert run.state() is RunState.ENDED
    history = read_history(run.folder)
    assert history.step_S.tolist() == [step for step, _, _ in training.seen]
    np.testing.assert_array_equal(history.count_SLE, [count for _, count, _ in training.seen])
    np.testing.assert_array_equal(history.bias_SLE, [bias for _, _, bias in training.seen])
    assert (history.count_SLE.sum(axis=-1) == 2 * 4 * 16).all()
    assert np.isfinite(history.scalars["loss"]).all()
    assert history.scalars["loss"][0] == pytest.approx(3.5, abs=0.8)  # about ln 32
    assert np.isnan(history.scalars["seconds"][0])
    assert (history.scalars["seconds"][1:] > 0).all()


def test_run_is_seen_while_it_trains(tmp_path: Path) -> None:
    training = Training(tmp_path).run(3)
    seen = _wait(lambda: [r for r in recorded_runs(tmp_path) if r.last_step == 2])
    assert seen[0].state() is RunState.LIVE  # the third step waits for its loss
    training.balance.finish()
    assert recorded_runs(tmp_path)[0].last_step == 3
    training.run(2).balance.finish()  # a finished session may train on
    run = recorded_run(tmp_path, "my run")
    assert (len(recorded_runs(tmp_path)), run.last_step) == (1, 5)


def test_stopped_run_goes_on_in_its_record_and_a_second_one_has_its_own(tmp_path: Path) -> None:
    first = Training(tmp_path).run(8)
    state = first.balance.state_dict()
    first.run(3).balance.detach()  # three more steps, which are lost
    resumed = Training(tmp_path, first.model)
    resumed.balance.load_state_dict(state)
    resumed.run(2).balance.detach()
    run = recorded_run(tmp_path, "my run")
    assert (run.run_id, run.last_step) == ("my-run", 10)
    history = read_history(run.folder)
    assert history.step_S.tolist() == list(range(1, 11))
    np.testing.assert_array_equal(history.count_SLE[8:], [c for _, c, _ in resumed.seen])
    Training(tmp_path).run(1).balance.detach()
    assert [run.run_id for run in recorded_runs(tmp_path)] == ["my-run-2", "my-run"]


def test_run_that_another_process_goes_on_with_is_left_alone(tmp_path: Path) -> None:
    first = Training(tmp_path).run(4)
    state = first.balance.state_dict()
    first.balance.finish()
    resumed = Training(tmp_path, model(seed=1))
    resumed.balance.load_state_dict(state)
    resumed.run(3)
    _wait(lambda: recorded_run(tmp_path, "my run").last_step == 6)
    first.balance._record.close()  # as when the first process ends
    assert recorded_run(tmp_path, "my run").state() is RunState.LIVE
    for training in (first, resumed):
        training.balance.detach()
    assert recorded_run(tmp_path, "my run").last_step == 7


def test_layers_of_other_sizes_are_runs_of_their_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mixed = models.Model([moe_layer(8, 2), dense_layer(), moe_layer(4, 1), moe_layer(8, 2)])
    training = Training(tmp_path, mixed).run(3)
    training.balance.detach()
    runs = {run.name: run for run in recorded_runs(tmp_path)}
    large, small = (
        runs["my run (top 2 of 8, probability)"],
        runs["my run (top 1 of 4, probability)"],
    )
    assert (large.shape.layers, small.shape.layers) == (("0", "3"), ("2",))
    count_SLE = np.array([count for _, count, _ in training.seen])
    np.testing.assert_array_equal(read_history(large.folder).count_SLE, count_SLE[:, [0, 2]])
    np.testing.assert_array_equal(read_history(small.folder).count_SLE, count_SLE[:, [1], :4])


@pytest.mark.parametrize("blocked", ["no folder", "read-only"])
def test_home_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, blocked: str
) -> None:
    home = tmp_path / "home"
    if blocked == "no folder":
        home.write_text("a file")
    else:
        subprocess.run(["mkdir", "-p", home / "runs"], check=True)
        home = Path("/proc/evenload")  # nobody can write there, root neither
    training = Training(home).run(4)
    training.balance.finish()
    training.run(2).balance.finish()
    assert len(training.seen) == 6
    assert len([r for r in caplog.records if "training goes on" in r.message]) == 1
    assert "6 steps lost" in repr(training.balance)
    training.balance.detach()


def test_full_disk_leaves_a_counted_gap_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    training = Training(tmp_path).run(3)
    training.balance.finish()
    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "replace", _no_space)
        training.run(5).balance.finish()
    assert len([r for r in caplog.records if "training goes on" in r.message]) == 1
    training.run(2).balance.detach()
    run = recorded_run(tmp_path, "my run")
    assert read_history(run.folder).step_S.tolist() == list(range(1, 11))  # all fit into memory
    assert run.errors > 0
    assert run.dropped_steps == 0


def test_home_that_is_deleted_while_training_is_made_again(tmp_path: Path) -> None:
    training = Training(tmp_path / "home").run(3)
    training.balance.finish()
    shutil.rmtree(tmp_path / "home")
    training.run(2).balance.detach()
    assert recorded_run(tmp_path / "home", "my run").last_step == 5


def test_what_the_disk_cannot_follow_is_dropped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path).run(1)
    _wait(lambda: training.balance.finish() or recorded_runs(tmp_path))
    stuck, write = threading.Event(), RunRecord._write

    def slow(self: RunRecord, steps: Any) -> None:
        stuck.wait(20)
        write(self, steps)

    monkeypatch.setattr(
        training.balance._record._disk, "_handle", slow.__get__(training.balance._record)
    )
    monkeypatch.setattr(training.balance._record._disk._queue, "maxsize", 4)
    training.run(30)
    stuck.set()
    training.balance.detach()
    run = recorded_run(tmp_path, "my run")
    steps = read_history(run.folder).step_S
    assert run.dropped_steps == 31 - len(steps)
    assert run.dropped_steps > 10
    assert len(np.unique(steps)) == len(steps)


def test_nothing_of_the_record_is_imported_without_a_name() -> None:
    code = (
        "import sys, evenload; evenload.attach; import evenload.workers.attach.session;"
        "print(sorted({'pyarrow', 'mlflow', 'ray', 'sqlalchemy'} & set(sys.modules)));"
        "import evenload.workers.attach.run_record;"
        "print(sorted({'pyarrow', 'mlflow', 'ray', 'sqlalchemy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["[]", "['pyarrow']"]


@pytest.mark.slow
def test_process_that_ends_without_detach_leaves_a_whole_record_and_its_scores(
    tmp_path: Path,
) -> None:
    home, scores = tmp_path / "home", tmp_path / "scores"
    code = (
        "from pathlib import Path; from tests.workers.attach.test_run_record import Training;"
        f"Training(Path({str(home)!r}), record_scores={str(scores)!r}).run(5)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    run = recorded_run(home, "my run")
    assert (run.last_step, run.state()) == (5, RunState.ENDED)
    assert read_recording(scores).score_NLTE.shape == (5, 2, 64, 8)


def test_bad_names_and_figures_are_refused_and_leave_the_model(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="name='  '"):
        Training(tmp_path, name="  ")
    with pytest.raises(AttachError, match="needs a name"):
        Training(tmp_path, name=None, mlflow=True)
    training = Training(tmp_path).run(1)
    with pytest.raises(AttachError, match=r"log\(accuracy=\)"):
        training.balance.log(accuracy=0.5)
    training.balance.detach()


def test_layers_are_called_by_their_numbers_if_these_differ() -> None:
    assert short_names(["m.layers.3.mlp.gate", "m.layers.5.mlp.gate"]) == ("3", "5")
    assert short_names(["a.0.gate", "b.0.gate"]) == ("a.0.gate", "b.0.gate")
    assert short_names(["gate"]) == ("gate",)


def test_figures_reach_the_active_mlflow_run(tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        with mlflow.start_run() as active:
            Training(tmp_path, mlflow=True).run(21).balance.detach()
        client = mlflow.MlflowClient()
        metrics = client.get_run(active.info.run_id).data.metrics
        history = client.get_metric_history(active.info.run_id, "evenload/max_vio")
    finally:
        mlflow.set_tracking_uri(None)
    assert [point.step for point in history] == [1, 10, 20]
    assert 10 < len(metrics) <= 25
    assert all(name.startswith("evenload/") for name in metrics)
    count_LE = read_history(recorded_run(tmp_path, "my run").folder).count_SLE[19]
    vio = (count_LE.max(axis=-1) / count_LE.mean(axis=-1) - 1).mean()
    assert history[-1].value == pytest.approx(vio)


@pytest.mark.parametrize("server", ["none", "failing"])
def test_mlflow_that_fails_stops_neither_training_nor_record(
    tmp_path: Path,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mlflow, "active_run", lambda: None if server == "none" else 1 / 0)
    Training(tmp_path, mlflow=True).run(12).balance.detach()
    assert recorded_run(tmp_path, "my run").last_step == 12
    assert len([r for r in caplog.records if "to MLflow has a problem" in r.message]) == 1


def _wait(found: Any) -> Any:
    for _ in range(400):
        if result := found():
            return result
        threading.Event().wait(0.02)
    raise AssertionError("it did not come")


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")
