"""The app as a viewer meets it: a real server, a real browser, every page clicked through."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from dashboard.__main__ import command
from pipeline.records import StepRecord, TrialState
from pipeline.settings import Settings
from pipeline.tracking.load_log import LoadLogSink, iter_history

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: none is on the PATH"),
]
WAIT_MS = 40_000  # a busy machine is slow, not broken
# On a deep link Streamlit asks below the page's own path where its base path begins.
EXPECTED_404 = re.compile(r"/_stcore/(health|host-config)$")


@pytest.fixture(scope="module")
def home(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy: one test adds steps to a run."""
    return Path(shutil.copytree(demo.home, tmp_path_factory.mktemp("browser") / "home"))


@pytest.fixture(scope="module")
def address(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"EVENLOAD_HOME": str(home)}
    with (tmp_path_factory.mktemp("server") / "log").open("wb") as log:
        server = subprocess.Popen(
            command(port, "127.0.0.1"), env=environment, stdout=log, stderr=log
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def _wait_for(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(WAIT_MS)
        yield page
        browser.close()


@pytest.fixture
def page(browser_page: Page) -> Iterator[Page]:
    """Fails the test that saw an error in the console or an exception on the page."""
    faults: list[str] = []

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not EXPECTED_404.search(message.location["url"]):
            faults.append(f"{message.text} {message.location['url']}")

    def on_fault(error: Any) -> None:
        faults.append(str(error))

    browser_page.on("console", on_console)
    browser_page.on("pageerror", on_fault)
    yield browser_page
    browser_page.remove_listener("console", on_console)
    browser_page.remove_listener("pageerror", on_fault)
    assert faults == []


def _settled(page: Page, title: str) -> None:
    """The page has this title, has finished running and shows no exception."""
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=WAIT_MS)
    expect(page.locator('[data-test-script-state="running"]')).to_have_count(0, timeout=WAIT_MS)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def _charts(page: Page, number: int) -> None:
    expect(page.locator(".js-plotly-plot .main-svg").first).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_test_id("stPlotlyChart")).to_have_count(number, timeout=WAIT_MS)


def _click_row(page: Page, row_pixels: int) -> None:
    page.get_by_test_id("stDataFrame").first.click(position={"x": 60, "y": row_pixels})


def test_viewer_gets_from_the_sweeps_to_what_an_expert_did(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(address)
    _settled(page, "Sweeps")
    _click_row(page, 55)
    page.wait_for_url(f"**/sweep?sweep={demo.ids['running']}")
    _settled(page, "schedules")
    _charts(page, 4)
    _click_row(page, 55)
    page.wait_for_url(f"**/run?run={demo.trials('running')[0].digest}")
    _settled(page, "sign 0.002, 16 experts")
    _charts(page, 2)
    for view, charts in [("Balance", 3), ("Training", 2), ("Load", 2)]:
        page.get_by_test_id("stMain").get_by_role("radio", name=view).click()
        _settled(page, "sign 0.002, 16 experts")
        _charts(page, charts)
    page.get_by_test_id("stMain").get_by_role("radio", name="Record").click()
    expect(page.get_by_text("Specification")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_text("attempt-1.log")).to_be_visible(timeout=WAIT_MS)
    _settled(page, "sign 0.002, 16 experts")


def test_navigation_opens_every_page(page: Page, address: str) -> None:
    page.goto(address)
    _settled(page, "Sweeps")
    for link, title in [("Sweep", "schedules"), ("Run", "sign 0.002, 16 experts")]:
        page.get_by_test_id("stHeader").get_by_role("link", name=link, exact=True).click()
        _settled(page, title)


def test_address_of_a_view_can_be_shared(page: Page, address: str, demo: Any) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.goto(f"{address}/run?run={digest}&view=Balance")
    _settled(page, "none, 32 experts")
    _charts(page, 3)
    page.goto(f"{address}/sweep?sweep={demo.ids['finished']}")
    _settled(page, "step-size-by-experts")
    _charts(page, 4)
    page.get_by_text("sign 0.1, 32 experts: failed after step 140").click()
    expect(page.get_by_text("FloatingPointError: step 141").first).to_be_visible()


def test_running_trial_grows_on_the_page_without_a_reload(
    page: Page, address: str, demo: Any, home: Path
) -> None:
    trial = demo.trial("running", "sign 0.05", 16)
    page.goto(f"{address}/run?run={trial.digest}")
    _settled(page, "sign 0.05, 16 experts")
    expect(page.get_by_text("180 / 300")).to_be_visible(timeout=WAIT_MS)
    _add_steps(Settings(home=home).trial_dir(trial.digest), first=181, last=200)
    expect(page.get_by_text("200 / 300")).to_be_visible(timeout=WAIT_MS)
    _settled(page, "sign 0.05, 16 experts")
    _charts(page, 2)


def _add_steps(folder: Path, first: int, last: int) -> None:
    """Repeats the newest recorded step, as the attempt that goes on from it would log."""
    chunk = list(iter_history(folder))[-1]
    sink = LoadLogSink(folder)
    sink.log_steps(
        [
            StepRecord(
                step=step,
                loss=2.0,
                balance_loss=0.0,
                grad_norm=1.0,
                learning_rate=1e-3,
                tokens=step * 512,
                seconds=0.02,
                count_LE=chunk.count_SLE[-1],
                bias_LE=chunk.bias_SLE[-1],
                max_vio_micro=0.1,
            )
            for step in range(first, last + 1)
        ]
    )
    sink.close(TrialState.QUEUED, {})
