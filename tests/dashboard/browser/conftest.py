"""One server over a copy of the demo, and one browser, for each file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from tests.dashboard.browser.pages import WAIT_MS, served

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
EXPECTED_404 = re.compile(r"/_stcore/(health|host-config)$")  # Streamlit looks for its base path


@pytest.fixture(scope="module")
def home(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo, because one test adds steps to a run."""
    return Path(shutil.copytree(demo.home, tmp_path_factory.mktemp("browser") / "home"))


@pytest.fixture(scope="module")
def address(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(home, tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs chromium: none is on the PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(WAIT_MS)
        yield page
        browser.close()


@pytest.fixture
def page(browser_page: Page) -> Iterator[Page]:
    """The browser page. Errors in its console and uncaught exceptions fail the test."""
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
