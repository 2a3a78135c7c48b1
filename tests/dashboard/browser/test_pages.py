"""Pages, their links and their controls with a real server and a real browser."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from evenload.pipeline.settings import Settings
from tests.dashboard.browser.pages import (
    CHARTS,
    CONTROLS,
    DRAWN,
    HAS_NO_NAME,
    WAIT_MS,
    add_steps,
    charts_drawn,
    choose,
    click_row,
    served,
    settled,
)
from tests.pipeline.records import recorded

pytestmark = pytest.mark.browser


def test_navigation_opens_every_page(page: Page, address: str) -> None:
    page.goto(address)
    settled(page, "Sweeps")
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
        settled(page, title)


@pytest.mark.slow
def test_sweep_that_was_chosen_stays_from_page_to_page(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/sweeps")
    settled(page, "Sweeps")
    expect(page.get_by_text("Page not found")).to_have_count(0)
    page.goto(f"{address}/sweep?sweep={demo.ids['finished']}")
    settled(page, "step-size-by-experts")
    page.locator(f"{DRAWN} path[aria-roledescription='point']").first.click()
    page.wait_for_url("**/run?run=*", timeout=WAIT_MS)
    opened = page.url.partition("run=")[2]
    assert opened in {trial.digest for trial in demo.trials("finished")}
    header = page.get_by_test_id("stHeader")
    header.get_by_role("link", name="Cost", exact=True).click()
    settled(page, "Cost of imbalance")
    expect(page.get_by_role("combobox").first).to_have_value(demo.ids["finished"])
    header.get_by_role("link", name="Run", exact=True).click()
    page.wait_for_url(f"**/run?run={opened}*", timeout=WAIT_MS)
    expect(page.get_by_text("is not known here")).to_have_count(0)
    page.get_by_role("button", name="Next run").click()
    page.wait_for_url(lambda url: opened not in url and "/run?run=" in url, timeout=WAIT_MS)


@pytest.mark.slow
def test_sweep_is_steered_and_another_one_started(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['running']}")
    settled(page, "schedules")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0, timeout=WAIT_MS)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible(timeout=WAIT_MS)
    page.goto(address)
    settled(page, "Sweeps")
    choose(page, "Start a sweep")
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
    settled(page, "from-the-browser")
    expect(page.get_by_text("not listed yet")).to_be_visible(timeout=WAIT_MS)


def test_cost_follows_the_plan_in_the_address(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/cost?sweep={demo.ids['finished']}&ranks=4&hours=2000")
    settled(page, "Cost of imbalance")
    charts_drawn(page, 2)
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
    settled(page, "Cluster")
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
        settled(page, "Sweeps")
        click_row(page, 55)
        page.wait_for_url("**/sweep?sweep=small-*")
        for view, charts in [("Runs", 1), ("Front", 1), ("Curves", 1)]:
            choose(page, view)
            settled(page, "small")
            charts_drawn(page, charts)
        page.get_by_test_id("stHeader").get_by_role("link", name="Run", exact=True).click()
        settled(page, "none, 16 experts")
        for view in ("Load", "Balance", "Biases", "Experts", "Training", "System", "Record"):
            choose(page, view)
            settled(page, "none, 16 experts")
        for link, title, charts in [
            ("Compare", "Compare", 0),  # no runs are chosen yet
            ("Cost", "Cost of imbalance", 2),
            ("Cluster", "Cluster", 0),
        ]:
            page.get_by_test_id("stHeader").get_by_role("link", name=link, exact=True).click()
            settled(page, title)
            if charts:
                expect(page.locator(CHARTS)).not_to_have_count(0, timeout=WAIT_MS)


def test_running_trial_grows_on_the_page_without_a_reload(
    page: Page, address: str, demo: Any, home: Path
) -> None:
    trial = demo.trial("running", "sign 0.05", 16)
    page.goto(f"{address}/run?run={trial.digest}&view=Load")
    settled(page, "sign 0.05, 16 experts")
    expect(page.get_by_text("180 / 300")).to_be_visible(timeout=WAIT_MS)
    charts_drawn(page, 2)
    page.evaluate("document.body.dataset.seen = 'before'")
    add_steps(Settings(home=home).trial_dir(trial.digest), first=181, last=200)
    expect(page.get_by_text("200 / 300")).to_be_visible(timeout=WAIT_MS)
    settled(page, "sign 0.05, 16 experts")
    charts_drawn(page, 2)
    expect(page.locator("body[data-seen='before']")).to_have_count(1)
    page.get_by_role("button", name="Export").nth(1).click()
    with page.expect_download(timeout=WAIT_MS) as saved:
        page.get_by_role("button", name="CSV").click()
    steps = {line.split(",")[0] for line in Path(saved.value.path()).read_text().splitlines()}
    assert {"181", "200"} <= steps


@pytest.mark.slow
def test_attached_run_grows_on_the_page_without_a_reload(
    page: Page, address: str, home: Path
) -> None:
    writer = recorded.writer(home)
    writer.write(recorded.steps(1, 40))
    page.goto(f"{address}/run?run=my-model&view=Balance")
    settled(page, "my model")
    expect(page.get_by_text("40 / 200")).to_be_visible(timeout=WAIT_MS)
    charts_drawn(page, 4)
    page.evaluate("document.body.dataset.seen = 'before'")
    writer.write(recorded.steps(41, 60))
    expect(page.get_by_text("60 / 200")).to_be_visible(timeout=WAIT_MS)
    expect(page.locator("body[data-seen='before']")).to_have_count(1)
