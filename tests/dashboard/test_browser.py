"""All pages of the app with a real server and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from evenload.dashboard.__main__ import command
from evenload.pipeline.charts import style
from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.shards import LoadLogSink, iter_history
from evenload.pipeline.settings import Settings
from tests.pipeline.records import recorded

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: none is on the PATH"),
]
WAIT_MS = 40_000  # for busy machines
CONTROLS = "main button:visible, main input:visible, main a:visible"
HAS_NO_NAME = """e => !(e.innerText || e.ariaLabel || e.title || e.labels?.length
  || e.getAttribute('aria-labelledby') || e.closest('[aria-label]'))"""
CHARTS = '[data-testid="stVegaLiteChart"], [data-testid="stEChartsChart"]'
DRAWN = ".vega-embed .marks"  # a canvas or an svg
DARK = "rgb(16, 21, 29)"
EXPECTED_404 = re.compile(r"/_stcore/(health|host-config)$")  # Streamlit looks for its base path


@pytest.fixture(scope="module")
def home(demo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo, because one test adds steps to a run."""
    return Path(shutil.copytree(demo.home, tmp_path_factory.mktemp("browser") / "home"))


@pytest.fixture(scope="module")
def address(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(home, tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@contextmanager
def served(home: Path, log_file: Path) -> Iterator[str]:
    """Serves this home with controls turned on; gives the address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = os.environ | {"EVENLOAD_HOME": str(home), "EVENLOAD_DASHBOARD_CONTROLS": "true"}
    with log_file.open("wb") as log:
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


def _settled(page: Page, title: str) -> None:
    """Waits until the page has this title and its script has ended without an exception."""
    expect(page.get_by_role("heading", name=title, exact=True)).to_be_visible(timeout=WAIT_MS)
    expect(page.locator('[data-test-script-state="running"]')).to_have_count(0, timeout=WAIT_MS)
    expect(page.get_by_test_id("stException")).to_have_count(0)


def _charts(page: Page, number: int) -> None:
    expect(page.locator(DRAWN).first).to_be_visible(timeout=WAIT_MS)
    expect(page.locator(CHARTS)).to_have_count(number, timeout=WAIT_MS)


def _click_row(page: Page, row_pixels: int) -> None:
    page.get_by_test_id("stDataFrame").first.click(position={"x": 60, "y": row_pixels})


def _choose(page: Page, view: str) -> None:
    page.get_by_test_id("stMain").get_by_role("radio", name=view, exact=True).click()


@pytest.mark.slow
def test_viewer_gets_from_the_sweeps_to_the_views_of_a_run(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(address)
    _settled(page, "Sweeps")
    _click_row(page, 55)
    page.wait_for_url(f"**/sweep?sweep={demo.ids['running']}")
    _settled(page, "schedules")
    digest = demo.trials("running")[0].digest
    page.goto(f"{address}/run?run={digest}")
    _settled(page, "sign 0.002, 16 experts")
    _charts(page, 2)
    for view, charts in [("Balance", 4), ("Biases", 3), ("Training", 4), ("Load", 2)]:
        _choose(page, view)
        _settled(page, "sign 0.002, 16 experts")
        _charts(page, charts)
    _choose(page, "System")
    _settled(page, "sign 0.002, 16 experts")
    expect(page.get_by_text("Memory of the host", exact=True)).to_be_visible(timeout=WAIT_MS)
    _choose(page, "Record")
    expect(page.get_by_text("Specification")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("combobox", name="File")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_text("step 300/300 loss 1.626")).to_be_visible(timeout=WAIT_MS)
    _settled(page, "sign 0.002, 16 experts")


def test_navigation_opens_every_page(page: Page, address: str) -> None:
    page.goto(address)
    _settled(page, "Sweeps")
    for link, title in [
        ("Sweep", "schedules"),
        ("Run", "sign 0.002, 16 experts"),
        ("Compare", "Compare"),
        ("Theory", "Theory"),
        ("Cost", "Cost of imbalance"),
        ("Cluster", "Cluster"),
        ("Glossary", "Glossary"),
    ]:
        page.get_by_test_id("stHeader").get_by_role("link", name=link, exact=True).click()
        _settled(page, title)


@pytest.mark.slow
def test_every_view_of_a_sweep_draws_its_charts(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['searched']}")
    _settled(page, "search")
    for view, charts in [*(("Answer", 4), ("Runs", 2), ("Front", 3), ("Curves", 1))]:
        _choose(page, view)
        _settled(page, "search")
        _charts(page, charts)
    _choose(page, "Runs")
    _settled(page, "search")
    _charts(page, 2)
    _click_row(page, 55)
    page.wait_for_url("**/run?run=*")
    page.goto(f"{address}/sweep?sweep={demo.ids['finished']}&view=Runs")
    _settled(page, "step-size-by-experts")
    expect(page.get_by_text("15 runs, 0 selected")).to_be_visible(timeout=WAIT_MS)
    page.get_by_text("sign 0.1, 32 experts, seed 0: failed after step 140").click()
    expect(page.get_by_text("FloatingPointError: step 141").first).to_be_visible(timeout=WAIT_MS)


@pytest.mark.slow
def test_sweep_that_was_chosen_stays_from_page_to_page(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/sweeps")
    _settled(page, "Sweeps")
    expect(page.get_by_text("Page not found")).to_have_count(0)
    page.goto(f"{address}/sweep?sweep={demo.ids['finished']}")
    _settled(page, "step-size-by-experts")
    page.locator(f"{DRAWN} path[aria-roledescription='point']").first.click()
    page.wait_for_url("**/run?run=*", timeout=WAIT_MS)
    opened = page.url.partition("run=")[2]
    assert opened in {trial.digest for trial in demo.trials("finished")}
    header = page.get_by_test_id("stHeader")
    header.get_by_role("link", name="Cost", exact=True).click()
    _settled(page, "Cost of imbalance")
    expect(page.get_by_role("combobox").first).to_have_value(demo.ids["finished"])
    header.get_by_role("link", name="Run", exact=True).click()
    page.wait_for_url(f"**/run?run={opened}*", timeout=WAIT_MS)
    expect(page.get_by_text("is not known here")).to_have_count(0)
    page.get_by_role("button", name="Next run").click()
    page.wait_for_url(lambda url: opened not in url and "/run?run=" in url, timeout=WAIT_MS)


@pytest.mark.slow
def test_brush_and_selection_choose_runs_and_outlive_a_reload(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['searched']}&view=Runs")
    _settled(page, "search")
    _charts(page, 2)
    expect(page.get_by_text("36 runs, 0 selected")).to_be_visible(timeout=WAIT_MS)
    box = page.locator(DRAWN).first.bounding_box()
    assert box is not None
    bottom = box["y"] + box["height"]
    page.mouse.move(box["x"] + 80, bottom - 250)
    page.mouse.down()
    page.mouse.move(box["x"] + 500, bottom - 60, steps=6)
    page.mouse.up()
    expect(page.get_by_text("36 runs, 0 selected")).to_have_count(0, timeout=WAIT_MS)
    for y in (55, 90):
        page.get_by_test_id("stDataFrame").first.click(position={"x": 15, "y": y})
    expect(page.get_by_text(", 2 selected")).to_be_visible(timeout=WAIT_MS)
    page.reload()
    expect(page.get_by_text("36 runs, 2 selected")).to_be_visible(timeout=WAIT_MS)
    page.get_by_role("link", name="Compare 2 runs").click()
    page.wait_for_url("**/compare?runs=*", timeout=WAIT_MS)


@pytest.mark.slow
def test_zoom_is_in_the_address_and_outlives_new_steps(
    page: Page, address: str, demo: Any, home: Path
) -> None:
    trial = demo.trial("running", "sign 0.002", 32)
    page.goto(f"{address}/run?run={trial.digest}&view=Training")
    _settled(page, "sign 0.002, 32 experts")
    _charts(page, 4)
    box = page.locator(DRAWN).first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 150, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 120, steps=6)
    page.mouse.up()
    page.wait_for_url("**zoom-loss=*", timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Show all, not only")).to_be_visible(timeout=WAIT_MS)
    zoomed = page.url
    _add_steps(Settings(home=home).trial_dir(trial.digest), first=221, last=230)
    expect(page.get_by_text("230 / 300")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Show all, not only")).to_be_visible()
    assert page.url == zoomed
    page.get_by_role("button", name="Show all, not only").click()
    page.wait_for_url(lambda url: "zoom-loss" not in url, timeout=WAIT_MS)


@pytest.mark.slow
def test_sweep_is_steered_and_another_one_started(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['running']}")
    _settled(page, "schedules")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0, timeout=WAIT_MS)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible(timeout=WAIT_MS)
    page.goto(address)
    _settled(page, "Sweeps")
    _choose(page, "Start a sweep")
    expect(page.get_by_text("Dry run")).to_be_visible(timeout=WAIT_MS)
    page.get_by_label("Steps", exact=True).fill("-5")
    page.get_by_label("Steps", exact=True).press("Enter")
    expect(page.get_by_text("Steps: -5 is not between 10 and 1,000,000")).to_be_visible()
    expect(page.get_by_role("button", name="Submit")).to_have_count(0)
    page.get_by_label("Steps", exact=True).fill("200")
    page.get_by_label("Steps", exact=True).press("Enter")
    page.get_by_label("Name", exact=True).fill("from-the-browser")
    page.get_by_label("Name", exact=True).press("Enter")
    page.get_by_text("As a file").click()
    expect(page.get_by_text("name: from-the-browser")).to_be_visible(timeout=WAIT_MS)
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/sweep?sweep=from-the-browser-*", timeout=WAIT_MS)
    _settled(page, "from-the-browser")
    expect(page.get_by_text("not listed yet")).to_be_visible(timeout=WAIT_MS)


def test_cost_follows_the_plan_in_the_address(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/cost?sweep={demo.ids['finished']}&ranks=4&hours=2000")
    _settled(page, "Cost of imbalance")
    _charts(page, 2)
    saved = page.get_by_test_id("stMarkdown").filter(has_text="Saved against none").first
    before = saved.inner_text()
    page.get_by_label("Price of a GPU hour, $").fill("5")
    page.get_by_label("Price of a GPU hour, $").press("Enter")
    expect(saved).not_to_have_text(before, timeout=WAIT_MS)
    assert {"ranks=4", "hours=2000", "price=5"} <= {
        part.removesuffix(".0") for part in page.url.partition("?")[2].split("&")
    }


def test_cluster_shows_all_checks(page: Page, address: str) -> None:
    page.goto(f"{address}/cluster")
    _settled(page, "Cluster")
    for part in ("SQL store", "Coordinator", "Workers", "MLflow", "Disk"):
        expect(page.get_by_text(part, exact=True)).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_test_id("stDataFrame")).not_to_have_count(0)


@pytest.mark.parametrize("view", ["", "theory", "cost", "cluster", "sweep?view=Runs"])
def test_every_control_has_a_name(page: Page, address: str, view: str) -> None:
    page.goto(f"{address}/{view}")
    expect(page.get_by_role("heading", level=1)).to_be_visible(timeout=WAIT_MS)
    expect(page.locator('[data-test-script-state="running"]')).to_have_count(0, timeout=WAIT_MS)
    unnamed = page.locator(CONTROLS).evaluate_all(
        f"all => all.filter({HAS_NO_NAME}).map(e => e.outerHTML.slice(0, 200))"
    )
    assert unnamed == []


@pytest.mark.slow
@pytest.mark.ray
def test_every_page_shows_a_really_trained_sweep(page: Page, tmp_path: Path) -> None:
    """Trains and evaluates two trials by `evenload sweep run`, then opens every page and view."""
    file = tmp_path / "small.yaml"
    file.write_text(
        "{name: small, axes: {balancer: [{kind: none}, {kind: sign, step_size: 0.01}]}, base: {"
        "model: {preset: tiny}, balancer: {kind: none}, eval: {tokens: 2048, every_steps: 10}, "
        "data: {kind: synthetic, num_tokens: 60000, vocab_size: 256, num_domains: 2}, "
        "train: {steps: 40, batch_sequences: 4, seq_len: 32}, runtime: {device: cpu}}}"
    )
    evenload = str(Path(sys.executable).with_name("evenload"))
    home = tmp_path / "home"
    arguments = ["sweep", "run", str(file), "--home", str(home), "--slots", "1"]
    subprocess.run([evenload, *arguments], check=True, timeout=240, capture_output=True)
    with served(home, tmp_path / "log") as address:
        page.goto(address)
        _settled(page, "Sweeps")
        _click_row(page, 55)
        page.wait_for_url("**/sweep?sweep=small-*")
        for view, charts in [("Runs", 1), ("Front", 1), ("Curves", 1)]:
            _choose(page, view)
            _settled(page, "small")
            _charts(page, charts)
        page.get_by_test_id("stHeader").get_by_role("link", name="Run", exact=True).click()
        _settled(page, "none, 16 experts")
        for view in ("Load", "Balance", "Biases", "Experts", "Training", "System", "Record"):
            _choose(page, view)
            _settled(page, "none, 16 experts")
        for link, title, charts in [
            ("Compare", "Compare", 0),  # no runs are chosen yet
            ("Cost", "Cost of imbalance", 2),
            ("Cluster", "Cluster", 0),
        ]:
            page.get_by_test_id("stHeader").get_by_role("link", name=link, exact=True).click()
            _settled(page, title)
            if charts:
                expect(page.locator(CHARTS)).not_to_have_count(0, timeout=WAIT_MS)


@pytest.mark.slow
def test_address_of_a_view_can_be_shared(page: Page, address: str, demo: Any) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.goto(f"{address}/run?run={digest}&view=Balance")
    _settled(page, "none, 32 experts")
    _charts(page, 4)
    _choose(page, "Experts")
    _settled(page, "none, 32 experts")
    _charts(page, 6)
    assert "view=Experts" in page.url
    page.reload()
    _settled(page, "none, 32 experts")
    _charts(page, 6)


@pytest.mark.slow
def test_runs_of_different_sizes_are_compared(page: Page, address: str, demo: Any) -> None:
    runs = [demo.trial("finished", "sign 0.01", experts).digest for experts in (8, 16, 32)]
    page.goto(f"{address}/compare?runs={','.join(runs)}")
    _settled(page, "Compare")
    _charts(page, 2 + 1 + 3 + 2)


@pytest.mark.slow
def test_charts_have_descriptions_for_screen_readers(page: Page, address: str, demo: Any) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.goto(f"{address}/run?run={digest}")
    _settled(page, "none, 32 experts")
    _charts(page, 2)
    expect(page.get_by_label(re.compile("Load of 32 experts in 4 layers"))).to_have_count(1)
    unnamed = page.locator(CONTROLS).evaluate_all(
        f"all => all.filter({HAS_NO_NAME}).map(e => e.outerHTML.slice(0, 200))"
    )
    assert unnamed == []


@pytest.mark.slow
def test_chart_can_be_exported_and_its_metric_looked_up(
    page: Page, address: str, demo: Any
) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.goto(f"{address}/run?run={digest}&view=Training")
    _settled(page, "none, 32 experts")
    _charts(page, 4)
    page.get_by_role("button", name="Export").first.click()
    with page.expect_download(timeout=WAIT_MS) as saved:
        page.get_by_role("button", name="CSV").click()
    assert saved.value.suggested_filename == "loss.csv"
    lines = Path(saved.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0] == 'series,optimizer step,"loss, bits per byte"'
    assert len(lines) == 301
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Definition").first.click()
    page.wait_for_url("**/glossary?metric=train_loss")
    _settled(page, "Glossary")
    expect(page.get_by_text("All metrics")).to_be_visible(timeout=WAIT_MS)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", DARK)])
def test_page_and_charts_follow_the_theme(
    page: Page, address: str, demo: Any, scheme: Any, ground: str
) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.emulate_media(color_scheme=scheme)
    try:
        page.goto(f"{address}/run?run={digest}&view=Training")
        _settled(page, "none, 32 experts")
        _charts(page, 4)
        background = "e => getComputedStyle(e).backgroundColor"
        assert page.get_by_test_id("stApp").evaluate(background) == ground
        title = page.locator(f"{DRAWN} .role-axis-title text").first
        expected = style.exchanged(style.MUTED, scheme)
        assert title.evaluate("e => getComputedStyle(e).fill") == _rgb(expected)
    finally:
        page.emulate_media(color_scheme="light")


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


def test_running_trial_grows_on_the_page_without_a_reload(
    page: Page, address: str, demo: Any, home: Path
) -> None:
    trial = demo.trial("running", "sign 0.05", 16)
    page.goto(f"{address}/run?run={trial.digest}")
    _settled(page, "sign 0.05, 16 experts")
    expect(page.get_by_text("180 / 300")).to_be_visible(timeout=WAIT_MS)
    _charts(page, 2)
    page.evaluate("document.body.dataset.seen = 'before'")
    _add_steps(Settings(home=home).trial_dir(trial.digest), first=181, last=200)
    expect(page.get_by_text("200 / 300")).to_be_visible(timeout=WAIT_MS)
    _settled(page, "sign 0.05, 16 experts")
    _charts(page, 2)
    expect(page.locator("body[data-seen='before']")).to_have_count(1)
    page.get_by_role("button", name="Export").nth(1).click()
    with page.expect_download(timeout=WAIT_MS) as saved:
        page.get_by_role("button", name="CSV").click()
    steps = {line.split(",")[0] for line in Path(saved.value.path()).read_text().splitlines()}
    assert {"181", "200"} <= steps


def _add_steps(folder: Path, first: int, last: int) -> None:
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


@pytest.mark.slow
def test_attached_run_grows_on_the_page_without_a_reload(
    page: Page, address: str, home: Path
) -> None:
    writer = recorded.writer(home)
    writer.write(recorded.steps(1, 40))
    page.goto(f"{address}/run?run=my-model&view=Balance")
    _settled(page, "my model")
    expect(page.get_by_text("40 / 200")).to_be_visible(timeout=WAIT_MS)
    _charts(page, 4)
    page.evaluate("document.body.dataset.seen = 'before'")
    writer.write(recorded.steps(41, 60))
    expect(page.get_by_text("60 / 200")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("body[data-seen='before']")).to_have_count(1)
