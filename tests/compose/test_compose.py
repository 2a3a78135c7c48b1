"""Tests the stack as a user runs it. The tests depend on each other, in this order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose.compose_stack import Stack, figures, sweep, until

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]
SERVICES = ("postgres", "mlflow", "ray-head", "ray-worker", "coordinator", "dashboard")
Local = Callable[[dict[str, Any]], dict[str, Any]]
SHORT = sweep("short", steps=24)
BIN = Path(sys.executable).parent


def test_everything_becomes_healthy_from_nothing(stack: Stack) -> None:
    stack.compose("up", "-d")
    stack.healthy(*SERVICES)


def test_a_sweep_in_the_stack_has_the_figures_of_one_on_sqlite(stack: Stack, local: Local) -> None:
    inside = stack.finished(stack.submit(SHORT))
    assert [trial["state"] for trial in inside["trials"]] == ["completed"] * 2
    assert figures(inside) == figures(local(SHORT))


def test_mlflow_shows_the_sweep_through_its_api(stack: Stack) -> None:
    sweep_id = stack.submit(SHORT)

    def all_finished() -> list[dict[str, Any]]:
        runs = stack.mlflow_runs(sweep_id)
        return runs if {run["info"]["status"] for run in runs} == {"FINISHED"} else []

    runs = until(all_finished, 60, "every run is FINISHED")
    assert len(runs) == 3, "there must be one parent, and one child per trial"
    trials = {trial["run_id"]: trial["result"] for trial in stack.status(sweep_id)["trials"]}
    for run in runs:
        if run["info"]["run_id"] in trials:
            shown = {metric["key"]: metric["value"] for metric in run["data"]["metrics"]}
            assert shown["val_loss"] == trials[run["info"]["run_id"]]["val_loss"]
            path = f"/api/2.0/mlflow/artifacts/list?run_id={run['info']['run_id']}"
            with urllib.request.urlopen(stack.url("MLFLOW_PORT", path), timeout=30) as answer:
                files = {file["path"] for file in json.load(answer)["files"]}
            assert {"expert_load", "steps", "spec.json"} <= files


@pytest.mark.browser
def test_a_sweep_submitted_from_the_dashboard_ends_and_shows(stack: Stack, tmp_path: Path) -> None:
    tree = sweep("from-the-browser", steps=24)
    tree["axes"]["train.seed"] = [7]  # so that no other sweep has its trials
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tree))
    with opened(stack, "/?view=Start+a+sweep&from=YAML+file") as page:
        page.locator("input[type=file]").set_input_files(tmp_path / "sweep.yaml")
        page.get_by_role("button", name="Submit").click(timeout=60_000)
        page.wait_for_url("**/sweep?sweep=from-the-browser-*", timeout=60_000)
        sweep_id = page.url.partition("?sweep=")[2].partition("&")[0]
        ended = stack.finished(sweep_id)
        assert [trial["state"] for trial in ended["trials"]] == ["completed"] * 2
        page.get_by_text("2 of 2").first.wait_for(timeout=60_000)  # it refreshes by itself
        page.goto(stack.url("DASHBOARD_PORT", f"/run?run={ended['trials'][0]['digest']}"))
        page.locator(".vega-embed .marks").first.wait_for(timeout=60_000)
        assert page.get_by_test_id("stException").count() == 0


@contextmanager
def opened(stack: Stack, path: str) -> Iterator[Any]:
    """Opens the dashboard in a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(stack.url("DASHBOARD_PORT", path))
        yield page
        browser.close()


def test_ray_refuses_jobs_without_the_token(stack: Stack) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(stack.url("RAY_PORT", "/api/jobs/"), timeout=30)
    assert refused.value.code == 401
    refused.value.close()


def test_a_job_submitted_from_outside_runs_a_sweep(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep("job", steps=16)))
    submit = ["job", "submit", "--address", stack.url("RAY_PORT", "")]
    entrypoint = ["--working-dir", str(tmp_path), "--", "evenload", "sweep", "run", "sweep.yaml"]
    ended = _outside(stack, [str(BIN / "ray"), *submit, *entrypoint])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "sign 0.01" in ended.stdout


def test_sweep_run_with_an_address_follows_its_job(stack: Stack, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep("followed", steps=16)))
    command = [str(BIN / "evenload"), "sweep", "run", str(path), "--json"]
    ended = _outside(stack, [*command, "--address", stack.url("RAY_PORT", "")])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads(ended.stdout)
    assert figures(document) == figures(stack.finished(document["sweep_id"]))


@pytest.mark.parametrize(
    "service", ["coordinator", "ray-head", "ray-worker", "postgres", "mlflow", "dashboard"]
)
def test_a_service_may_crash_during_a_sweep(service: str, stack: Stack, local: Local) -> None:
    tree = sweep(f"crash-{service}", steps=2000)
    tree["axes"]["train.seed"] = [100 + SERVICES.index(service)]  # no other sweep has its trials
    sweep_id = stack.submit(tree)
    until(lambda: stack.progress(sweep_id) > 100, 120, "training has begun")
    stack.crash(service)
    ended = stack.finished(sweep_id, seconds=400)
    stack.healthy(*SERVICES)
    assert [trial["state"] for trial in ended["trials"]] == ["completed"] * 2
    assert figures(ended) == figures(local(tree))
    runs = stack.mlflow_runs(sweep_id)
    assert len(runs) == 3, "there must be one parent, and one child per trial"


def test_workers_come_and_go(stack: Stack) -> None:
    stack.compose("up", "-d", "--no-recreate", "--scale", "ray-worker=2")
    stack.healthy("ray-worker")
    assert len(stack.containers("ray-worker")) == 2
    sweep_id = stack.submit(sweep("scaled", steps=1500, seeds=2, max_retries=5))
    until(lambda: _hosts(stack, sweep_id) == 2, 120, "both workers train")
    stack.compose("up", "-d", "--no-recreate", "--scale", "ray-worker=1")
    ended = stack.finished(sweep_id, seconds=300)
    assert [trial["state"] for trial in ended["trials"]] == ["completed"] * 4


def test_data_survives_down_and_up(stack: Stack) -> None:
    before = figures(stack.status(stack.submit(SHORT)))
    listed = json.loads(stack.evenload("sweep", "list", "--json"))
    running = stack.submit(sweep("interrupted", steps=3000))
    until(lambda: stack.progress(running) > 0, 120, "training started")
    stack.compose("down")
    stack.compose("up", "-d")
    stack.healthy(*SERVICES)
    assert figures(stack.status(stack.submit(SHORT))) == before
    after = json.loads(stack.evenload("sweep", "list", "--json"))
    assert [row["sweep_id"] for row in after][1:] == [row["sweep_id"] for row in listed]
    ended = stack.finished(running)
    assert [trial["failures"] for trial in ended["trials"]] == [0, 0], "trials must be released"
    assert len(stack.mlflow_runs(running)) == 3


def test_a_backup_restores_sweeps_and_runs(stack: Stack, tmp_path: Path) -> None:
    """The commands are those of infra/README.md."""
    sweep_id = stack.submit(SHORT)
    before, runs = figures(stack.status(sweep_id)), stack.mlflow_runs(sweep_id)
    dumps = {name: stack.dump(name) for name in ("evenload", "mlflow")}
    later = stack.submit(sweep("later", steps=8))
    stack.finished(later)
    stack.compose("stop", "coordinator", "mlflow", "dashboard")
    for name, dump in dumps.items():
        stack.restore(name, dump)
    stack.compose("up", "-d")
    stack.healthy(*SERVICES)
    listed = json.loads(stack.evenload("sweep", "list", "--json"))
    assert later not in {row["sweep_id"] for row in listed}
    assert figures(stack.status(sweep_id)) == before
    assert len(stack.mlflow_runs(sweep_id)) == len(runs)
    stack.finished(stack.submit(sweep("later", steps=8)))


def test_the_exporter_reports_trials(stack: Stack) -> None:
    stack.compose("--profile", "monitoring", "up", "-d", "exporter")
    stack.healthy("exporter")
    fetch = "import urllib.request as u; print(u.urlopen('http://exporter:9464/metrics').read())"
    scraped = stack.compose("exec", "-T", "dashboard", "python", "-c", fetch)
    assert "evenload_up 1.0" in scraped
    assert 'evenload_trials{state="completed"}' in scraped


def _outside(stack: Stack, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name[:4] != "RAY_"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": stack.settings["RAY_AUTH_TOKEN"]}
    return subprocess.run(
        command,
        env=environment | token,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _hosts(stack: Stack, sweep_id: str) -> int:
    """The number of hosts whose workers hold trials of the sweep now."""
    trials = stack.status(sweep_id)["trials"]
    held = [trial for trial in trials if trial["state"] in ("training", "evaluating")]
    return len({trial["worker"].partition("@")[2].partition(":")[0] for trial in held})
