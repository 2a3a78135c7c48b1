"""What a reader of a page does and sees, in a real browser."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect

from evenload.dashboard.__main__ import command
from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.shards import LoadLogSink, iter_history

WAIT_MS = 40_000  # for busy machines
CONTROLS = "main button:visible, main input:visible, main a:visible"
HAS_NO_NAME = """e => !(e.innerText || e.ariaLabel || e.title || e.labels?.length
  || e.getAttribute('aria-labelledby') || e.closest('[aria-label]'))"""
CHARTS = '[data-testid="stVegaLiteChart"], [data-testid="stEChartsChart"]'
DRAWN = ".vega-embed .marks"  # a canvas or an svg


def settled(page: Page, title: str) -> None:
    """Waits until the page has this title and its script has ended without an exception."""
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=WAIT_MS)
    expect(page.locator('[data-test-script-state="running"]')).to_have_count(0, timeout=WAIT_MS)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def charts_drawn(page: Page, number: int) -> None:
    expect(page.locator(DRAWN).first).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(CHARTS)).to_have_count(number, timeout=WAIT_MS)


def click_row(page: Page, row_pixels: int) -> None:
    page.get_by_test_id("stDataFrame").first.click(position={"x": 60, "y": row_pixels})


def choose(page: Page, view: str) -> None:
    page.get_by_test_id("stMain").get_by_role("radio", name=view, exact=True).click()


@contextmanager
def served(home: Path, log_file: Path, port: int | None = None) -> Iterator[str]:
    """Serves this home with controls turned on; gives the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port or 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"EVENLOAD_HOME": str(home), "EVENLOAD_DASHBOARD_CONTROLS": "true"}
    with log_file.open("wb") as log:
        server = subprocess.Popen(
            command(port, "127.0.0.1"), env=environment, stdout=log, stderr=log
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def wait_for(url: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def add_steps(folder: Path, first: int, last: int) -> None:
    """Logs copies of the newest recorded step, like an attempt that continues."""
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
    sink.close()
