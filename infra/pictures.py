"""Takes pictures of the dashboard in a real browser.

    evenload quickstart --no-serve && python -m infra.pictures   # those of the README
    python -m infra.pictures --all DIR          # every page and state, three widths, light and dark
    python -m infra.pictures --all DIR --only sweep-wide --size 1440-light    # a part of them

It needs the dev extra and a chromium. EVENLOAD_HOME names the home of the first, by default
./.evenload; the others are taken from homes that are generated below DIR, and faults that can be
measured (a page wider than the window, controls that are cut off, exceptions) are listed.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from playwright.sync_api import Browser, Page, TimeoutError, sync_playwright

from evenload.pipeline.settings import Settings
from evenload.pipeline.store.sweep_store import SweepStore
from infra.benchmarks import generated_home
from tests.dashboard import demo_home
from tests.dashboard.browser.pages import served
from tests.pipeline.records import recorded

PICTURES = Path(__file__).parent / "pictures"
SIZE = {"width": 1440, "height": 1020}
SHOWN_RULE, SHOWN_EXPERTS = "none", 32
WIDTHS, TALLEST = {1440: 900, 1024: 768, 390: 844}, 6000  # pixels; the heights of usual screens
SETTLE_MS = 900
RUN_VIEWS = ("Load", "Balance", "Biases", "Training", "Experts", "System", "Record")
SWEEP_VIEWS = ("Answer", "Runs", "Front", "Step sizes", "Curves")
BUSY = '[data-test-script-state="running"]'
# Streamlit scrolls its main part, not the document.
FAULTS = """() => {
  const main = document.querySelector('[data-testid="stMain"]'), found = [];
  const wide = main.scrollWidth - main.clientWidth;
  if (wide > 0) found.push(`${wide} px wider than the window`);
  for (const box of main.querySelectorAll('[data-testid="stException"]'))
    found.push(`an exception: ${box.innerText.slice(0, 80)}`);
  for (const one of main.querySelectorAll('button, input, a, label, canvas, svg.marks')) {
    const at = one.getBoundingClientRect();
    const scrolls = one.closest('[data-testid="stDataFrame"], [data-testid="stCode"]');
    if (at.width && at.right > innerWidth + 1 && !scrolls)
      found.push(`${one.tagName} “${(one.innerText || one.ariaLabel || '').slice(0, 30)}” is cut`);
  }
  return found;
}"""
HEIGHT = "() => document.querySelector('[data-testid=\"stMain\"]').scrollHeight"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m infra.pictures")
    parser.add_argument("--all", type=Path, metavar="DIR", help="folder for every page and state")
    parser.add_argument("--only", default="", help="beginning of the names that are taken")
    parser.add_argument("--size", default="", help="beginning of WIDTH-THEME, such as 390-dark")
    given = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        faults = _all(browser, given.all, given.only, given.size) if given.all else _readme(browser)
        browser.close()
    raise SystemExit(faults > 0)


def _readme(browser: Browser) -> int:
    store = SweepStore(Settings().store_url)
    sweep_id = store.sweeps()[0].sweep_id
    run = next(
        trial.digest
        for trial in store.trials(sweep_id)
        if trial.label == SHOWN_RULE and trial.spec["model"]["num_experts"] == SHOWN_EXPERTS
    )
    store.close()
    with served(Settings().root, Settings().root / "pictures.log") as address:
        page = browser.new_page(viewport=SIZE, device_scale_factor=1)
        for path, name in ((f"sweep?sweep={sweep_id}", "sweep"), (f"run?run={run}", "run")):
            _open(page, f"{address}/{path}")
            page.screenshot(path=PICTURES / f"{name}.png")
    return 0


def _all(browser: Browser, folder: Path, only: str, size: str) -> int:
    """Every page and state, and a list of what can be measured of them."""
    faults = 0
    empty, full = folder / "empty", folder / "full"
    ids = _built(full)
    empty.mkdir(exist_ok=True)
    SweepStore(Settings(home=empty).store_url).migrate()
    for home, addresses in ((empty, _empty_pages()), (full, _pages(ids))):
        shown = {name: path for name, path in addresses.items() if name.startswith(only)}
        if not shown:
            continue
        with served(home, folder / "log") as address:
            for name, path in shown.items():
                faults += _every_size(browser, f"{address}/{path}", folder, name, size)
    print(f"{faults} faults")
    return faults


def _built(home: Path) -> Mapping[str, str]:
    """Sweeps in every state, a sweep of 500 trials, a run of 26 layers and an attached run."""
    if not home.exists():
        demo_home.build(home)
        generated_home.build(home, steps=2000, layers=26, experts=64, trials=500)
        recorded.writer(home).write(recorded.steps(1, 120))
    store = SweepStore(Settings(home=home).store_url)
    sweeps = {sweep.name: sweep.sweep_id for sweep in store.sweeps()}
    runs = {}
    for name, wanted in (
        ("run-finished", ("step-size-by-experts", "none", 32)),
        ("run-failed", ("step-size-by-experts", "sign 0.1", 32)),
        ("run-running", ("schedules", "sign 0.05", 16)),
        ("run-queued", ("schedules", "sign 0.05", 32)),
        ("run-26-layers", ("long-run", "sign 0.001", 64)),
    ):
        sweep, label, experts = wanted
        runs[name] = next(
            t.digest
            for t in store.trials(sweeps[sweep])
            if (t.label, t.spec["model"]["num_experts"]) == (label, experts)
        )
    store.close()
    return sweeps | runs


def _empty_pages() -> dict[str, str]:
    pages = ("sweeps", "sweep", "run", "compare", "theory", "cost", "cluster", "glossary")
    return {f"empty-{page}": page for page in pages}


def _pages(ids: Mapping[str, str]) -> dict[str, str]:
    """Name -> path of every page in every state."""
    sweeps = {
        "running": ids["schedules"],
        "one-seed": ids["step-size-by-experts"],
        "many-seeds": ids["search"],
        "wide": ids["wide-sweep"],
        "cancelled": ids["first-try"],
        "submitted": ids["gpu-night"],
    }
    runs = {key: ids[key] for key in ids if key.startswith("run-")} | {"run-attached": "my-model"}
    pages = {"sweeps": "sweeps", "sweeps-start": "sweeps?view=Start+a+sweep"}
    for state, sweep in sweeps.items():
        for view in SWEEP_VIEWS:
            address = f"sweep?sweep={sweep}&view={view.replace(' ', '+')}"
            pages[f"sweep-{state}-{view.replace(' ', '-')}"] = address
    for name, run in runs.items():
        for view in RUN_VIEWS:
            pages[f"{name}-{view}"] = f"run?run={run}&view={view}"
    pages["compare"] = f"compare?runs={ids['run-finished']},{ids['run-26-layers']},my-model"
    pages["compare-none"] = "compare?runs="
    pages["theory"] = "theory"
    pages["cost"] = f"cost?sweep={ids['step-size-by-experts']}"
    return pages | {"cluster": "cluster", "glossary": "glossary", "unknown": "sweep?sweep=nope"}


def _every_size(browser: Browser, address: str, folder: Path, name: str, size: str) -> int:
    faults = 0
    for width, height in WIDTHS.items():
        themes = [theme for theme in ("light", "dark") if f"{width}-{theme}".startswith(size)]
        if not themes:
            continue
        page = browser.new_page(viewport={"width": width, "height": height})
        found: list[str] = []
        page.on("pageerror", lambda error, found=found: found.append(f"in the browser: {error}"))
        page.emulate_media(color_scheme=themes[0])  # type: ignore[arg-type]
        _open(page, address)
        needed = int(page.evaluate(HEIGHT))
        page.set_viewport_size({"width": width, "height": min(TALLEST, max(height, needed))})
        for theme in themes:
            page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            page.wait_for_timeout(SETTLE_MS)
            page.wait_for_selector(BUSY, state="detached", timeout=60_000)
            page.wait_for_timeout(SETTLE_MS)
            page.screenshot(path=folder / f"{name}-{width}-{theme}.png")
            found += page.evaluate(FAULTS)
        page.close()
        for fault in dict.fromkeys(found):
            print(f"{name} {width}: {fault}", flush=True)
        print(f"{name} {width}: {needed} px high", flush=True)
        faults += len(found)
    return faults


def _open(page: Page, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("h1", timeout=60_000)
    try:
        page.wait_for_selector(BUSY, state="detached", timeout=60_000)
        page.wait_for_selector(".vega-embed .marks", timeout=4_000)
    except TimeoutError:
        pass  # a page without charts
    page.wait_for_timeout(SETTLE_MS)


if __name__ == "__main__":
    main()
