"""Times a page in a real browser, from its address to the drawn figures.

It needs the dev extra (playwright) and a chromium on the PATH.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenload.dashboard.__main__ import command

if TYPE_CHECKING:
    from playwright.sync_api import Page

WAIT_MS = 120_000
START_SECONDS = 60.0
DRAWN = """charts => document.querySelectorAll('.vega-embed .marks').length >= charts
  && !document.querySelector('[data-test-script-state="running"]')"""


def measure_browser(home: Path, address: str, charts: int) -> dict[str, Any] | None:
    """Seconds of a first and a second visit to a server that has just started.

    Returns:  None if there is no browser
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    port = free_port()
    server = subprocess.Popen(
        command(port, "127.0.0.1"),
        env=os.environ | {"EVENLOAD_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_healthy(port)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/_stcore/health")  # warms up the browser
            url = f"http://127.0.0.1:{port}/{address}"
            first, again = (_visit(page, url, charts) for _ in range(2))
            browser.close()
    finally:
        server.terminate()
        server.wait()
    return {"address": address.partition("?")[0], "first_seconds": first, "again_seconds": again}


def _visit(page: Page, url: str, charts: int) -> float:
    started = time.perf_counter()
    page.goto(url)
    page.wait_for_function(DRAWN, arg=charts, timeout=WAIT_MS)
    return round(time.perf_counter() - started, 3)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            time.sleep(5.0)  # by then the server has imported its libraries
            return
    raise SystemExit(f"the dashboard does not answer on port {port}")
