"""Takes the README's pictures from a finished sweep, in a real browser.

    evenload quickstart --no-serve && python infra/pictures.py

It needs the dev extra and a chromium. EVENLOAD_HOME names the home, by default ./.evenload.
"""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from evenload.dashboard.__main__ import command
from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore

PICTURES = Path(__file__).parent / "pictures"
PORT = 8591
SIZE = {"width": 1440, "height": 1020}
SHOWN_RULE, SHOWN_EXPERTS = "none", 32


def main() -> None:
    store = SweepStore(Settings().store_url)
    sweep_id = store.sweeps()[0].sweep_id
    run = next(
        trial.digest
        for trial in store.trials(sweep_id)
        if trial.label == SHOWN_RULE and trial.spec["model"]["num_experts"] == SHOWN_EXPERTS
    )
    server = subprocess.Popen(command(PORT, "127.0.0.1"), stderr=subprocess.DEVNULL)
    try:
        _wait_until_healthy()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport=SIZE, device_scale_factor=1)
            _take(page, f"sweep?sweep={sweep_id}", "sweep.png")
            _take(page, f"run?run={run}", "run.png")
            browser.close()
    finally:
        server.terminate()
        server.wait()


def _take(page: Page, path: str, name: str) -> None:
    page.goto(f"http://127.0.0.1:{PORT}/{path}")
    page.wait_for_selector(".vega-embed .marks", timeout=60_000)
    page.wait_for_timeout(3000)  # figures grow into their cards
    page.screenshot(path=PICTURES / name)


def _wait_until_healthy() -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=1)
            return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.25)
    raise SystemExit(f"the dashboard does not answer on port {PORT}")


if __name__ == "__main__":
    main()
