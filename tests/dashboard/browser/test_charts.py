"""Views and their charts with a real server and a real browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from evenload.pipeline.charts import style
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
    settled,
)

pytestmark = pytest.mark.browser
DARK = "rgb(16, 21, 29)"
PLACE_ON_A_MARK = """all => all.map(e => {
  const box = e.getBoundingClientRect(), at = e.getPointAtLength(0.8 * e.getTotalLength());
  const m = e.getScreenCTM();
  return box.width < 30 ? [e, box.x + box.width / 2, box.y + box.height / 2]
    : [e, at.x * m.a + m.e, at.y * m.d + m.f];
}).find(([e, x, y]) => document.elementFromPoint(x, y) === e).slice(1)"""  # that nothing covers
FOCUSED = "document.activeElement.closest('[data-testid]')?.dataset.testid"
UNNAMED = "all => all.filter(e => !e.querySelector('[aria-label]')?.ariaLabel).length"


@pytest.mark.slow
def test_viewer_gets_from_the_sweeps_to_the_views_of_a_run(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(address)
    settled(page, "Sweeps")
    click_row(page, 55)
    page.wait_for_url(f"**/sweep?sweep={demo.ids['running']}")
    settled(page, "schedules")
    digest = demo.trials("running")[0].digest
    page.goto(f"{address}/run?run={digest}")
    settled(page, "sign 0.002, 16 experts")
    charts_drawn(page, 2)
    for view, charts in [("Balance", 4), ("Biases", 3), ("Training", 4), ("Load", 2)]:
        choose(page, view)
        settled(page, "sign 0.002, 16 experts")
        charts_drawn(page, charts)
    choose(page, "System")
    settled(page, "sign 0.002, 16 experts")
    expect(page.get_by_text("Memory of the host", exact=True)).to_be_visible(timeout=WAIT_MS)
    choose(page, "Record")
    expect(page.get_by_text("Specification")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("combobox", name="File")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_text("step 300/300 loss 1.626")).to_be_visible(timeout=WAIT_MS)
    settled(page, "sign 0.002, 16 experts")


@pytest.mark.slow
def test_every_view_of_a_sweep_draws_its_charts(page: Page, address: str, demo: Any) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['searched']}")
    settled(page, "search")
    for view, charts in [*(("Answer", 4), ("Runs", 1), ("Front", 3), ("Curves", 1))]:
        choose(page, view)
        settled(page, "search")
        charts_drawn(page, charts)
    choose(page, "Runs")
    settled(page, "search")
    charts_drawn(page, 1)
    click_row(page, 55)
    page.wait_for_url("**/run?run=*")
    page.goto(f"{address}/sweep?sweep={demo.ids['finished']}&view=Runs")
    settled(page, "step-size-by-experts")
    expect(page.get_by_text("15 runs, 0 selected")).to_be_visible(timeout=WAIT_MS)
    page.get_by_text("sign 0.1, 32 experts, seed 0: failed after step 140").click()
    expect(page.get_by_text("FloatingPointError: step 141").first).to_be_visible(timeout=WAIT_MS)


@pytest.mark.slow
def test_brush_and_selection_choose_runs_and_outlive_a_reload(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['searched']}&view=Runs")
    settled(page, "search")
    charts_drawn(page, 1)
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
    settled(page, "sign 0.002, 32 experts")
    charts_drawn(page, 4)
    box = page.locator(DRAWN).first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 150, box["y"] + 80)
    page.mouse.down()
    page.mouse.move(box["x"] + 250, box["y"] + 120, steps=6)
    page.mouse.up()
    page.wait_for_url("**zoom-loss=*", timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Show all, not only")).to_be_visible(timeout=WAIT_MS)
    zoomed = page.url
    add_steps(Settings(home=home).trial_dir(trial.digest), first=221, last=230)
    expect(page.get_by_text("230 / 300")).to_be_visible(timeout=WAIT_MS)
    expect(page.get_by_role("button", name="Show all, not only")).to_be_visible()
    assert page.url == zoomed
    page.get_by_role("button", name="Show all, not only").click()
    page.wait_for_url(lambda url: "zoom-loss" not in url, timeout=WAIT_MS)


@pytest.mark.slow
def test_address_of_a_view_can_be_shared(page: Page, address: str, demo: Any) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.goto(f"{address}/run?run={digest}&view=Balance")
    settled(page, "none, 32 experts")
    charts_drawn(page, 4)
    choose(page, "Experts")
    settled(page, "none, 32 experts")
    charts_drawn(page, 6)
    assert "view=Experts" in page.url
    page.reload()
    settled(page, "none, 32 experts")
    charts_drawn(page, 6)


@pytest.mark.slow
def test_runs_of_different_sizes_are_compared(page: Page, address: str, demo: Any) -> None:
    runs = [demo.trial("finished", "sign 0.01", experts).digest for experts in (8, 16, 32)]
    page.goto(f"{address}/compare?runs={','.join(runs)}")
    settled(page, "Compare")
    charts_drawn(page, 2 + 1 + 3 + 2)


@pytest.mark.slow
def test_charts_have_descriptions_for_screen_readers(page: Page, address: str, demo: Any) -> None:
    digest = demo.trial("finished", "none", 32).digest
    page.goto(f"{address}/run?run={digest}")
    settled(page, "none, 32 experts")
    charts_drawn(page, 2)
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
    settled(page, "none, 32 experts")
    charts_drawn(page, 4)
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
    settled(page, "Glossary")
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
        settled(page, "none, 32 experts")
        charts_drawn(page, 4)
        background = "e => getComputedStyle(e).backgroundColor"
        assert page.get_by_test_id("stApp").evaluate(background) == ground
        title = page.locator(f"{DRAWN} .role-axis-title text").first
        expected = style.exchanged(style.MUTED, scheme)
        assert title.evaluate("e => getComputedStyle(e).fill") == _rgb(expected)
    finally:
        page.emulate_media(color_scheme="light")


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))})"


@pytest.mark.slow
def test_click_on_any_chart_of_a_sweep_opens_its_run(page: Page, address: str, demo: Any) -> None:
    digests = {trial.digest for trial in demo.trials("searched")}
    for view, mark in (("Front", "point"), ("Step sizes", "point"), ("Curves", "line mark")):
        page.goto(f"{address}/sweep?sweep={demo.ids['searched']}&view={view}")
        settled(page, "search")
        expect(page.locator(DRAWN).first).to_be_visible(timeout=WAIT_MS)
        marks = page.locator(f"{DRAWN} path[aria-roledescription='{mark}']")
        expect(marks.first).to_be_attached(timeout=WAIT_MS)
        page.mouse.click(*marks.evaluate_all(PLACE_ON_A_MARK))
        page.wait_for_url("**/run?run=*", timeout=WAIT_MS)
        assert page.url.partition("run=")[2].partition("&")[0] in digests


@pytest.mark.slow
def test_zoom_of_the_front_is_in_the_address_and_outlives_a_reload(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['searched']}&view=Front&picked=nope&at=nope")
    settled(page, "search")
    expect(page.get_by_text("The address asks for picked=nope, at=nope")).to_be_visible()
    charts_drawn(page, 3)
    box = page.locator(DRAWN).first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 150)
    page.mouse.down()
    page.mouse.move(box["x"] + 800, box["y"] + 300, steps=6)
    page.mouse.up()
    page.wait_for_url("**zoom-front=*", timeout=WAIT_MS)
    zoomed = page.url
    page.reload()
    expect(page.get_by_role("button", name="Show all, not only")).to_be_visible(timeout=WAIT_MS)
    assert page.url == zoomed


@pytest.mark.slow
def test_answer_fits_one_screen_and_toolbars_are_out_of_the_tab_order(
    page: Page, address: str, demo: Any
) -> None:
    page.goto(f"{address}/sweep?sweep={demo.ids['searched']}")
    settled(page, "search")
    charts_drawn(page, 4)
    main = page.get_by_test_id("stMain")
    assert main.evaluate("e => [e.scrollHeight, e.scrollWidth - e.clientWidth]") == [900, 0]
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(FOCUSED))
    assert "stPopoverButton" in seen  # the menus Export below the charts
    assert "stBaseButton-elementToolbar" not in seen
    assert main.locator(CHARTS).evaluate_all(UNNAMED) == 0
