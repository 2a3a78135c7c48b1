"""Pages in a real browser, against bare Streamlit pages in the same run.

    python -m infra.benchmarks pages            # a run of 100,000 steps, 500 trials, 110,000 trials
    python -m infra.benchmarks pages --quick    # the same on small data, to see that it works

Every visit has a new browser context, so nothing is cached in the browser. Bare pages are a text,
and as many Vega charts of one line as the page draws. Visits of pages and of bare pages take turns.
Needs the dev extra (playwright), a chromium on the PATH and about 2 GB of disk.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from evenload.dashboard.__main__ import OPTIONS, command
from evenload.pipeline.errors import SpecError
from infra.benchmarks.browser_timing import WAIT_MS, free_port, wait_until_healthy
from infra.benchmarks.filled_store import fill
from infra.benchmarks.generated_home import build

VISITS, SESSIONS = 7, 20
FIGURES = "document.querySelector('.stMarkdown strong, [data-testid=stDataFrame]')"
SETTLED = """charts => document.querySelectorAll('.vega-embed .marks').length >= charts
  && !!document.querySelector('.stMarkdown strong, [data-testid=stDataFrame]')
  && !document.querySelector('[data-test-script-state="running"]')"""
BARE = """
import altair as alt, numpy as np, pyarrow as pa, streamlit as st
st.set_page_config(layout="wide")
charts = int(st.query_params.get("charts", 0))
st.markdown("Steps **100,000**")
st.segmented_control("View", ["A", "B"], default="A", required=True)
for place in range(charts):
    table = pa.table({"x": np.arange(400), "y": np.random.default_rng(place).random(400)})
    st.altair_chart(alt.Chart(table).mark_line().encode(x="x:Q", y="y:Q"), key=f"c{place}")
"""
SIZES = {False: (100_000, 26, 64, 500, 110_000), True: (300, 3, 8, 20, 2_000)}


def run(quick: bool = False) -> dict[str, Any]:
    steps, layers, experts, trials, stored = SIZES[quick]
    with tempfile.TemporaryDirectory(prefix="evenload-pages-") as folder, ExitStack() as stack:
        home, many = Path(folder) / "home", Path(folder) / "many"
        ids = build(home, steps=steps, layers=layers, experts=experts, trials=trials)
        many.mkdir()
        fill(f"sqlite:///{many / 'evenload.db'}", stored * 10 // 11, stored // 11)
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        own = stack.enter_context(_served(command, home))
        base = stack.enter_context(_served(lambda port, _: _bare_command(bare, port), home))
        listing = stack.enter_context(_served(command, many))
        new_page = stack.enter_context(_browser())
        pages = {
            "run Load": f"run?run={ids['run']}&view=Load",
            "run Cockpit": f"run?run={ids['run']}&view=Cockpit",
            "sweep Answer": f"sweep?sweep={ids['sweep']}&view=Answer",
            "sweep Runs": f"sweep?sweep={ids['sweep']}&view=Runs",
        }
        visits = 2 if quick else VISITS
        return {
            "size": dict(
                zip(("steps", "layers", "experts", "trials", "stored"), SIZES[quick], strict=True)
            ),
            "visits": visits,
            "pages": [
                {"page": name, **_compared(new_page, own[0] + address, base[0], visits)}
                for name, address in pages.items()
            ],
            "tab": _tab(new_page, own[0] + pages["run Load"], base[0], visits),
            "list": _listing(new_page, listing),
            "sessions": _sessions(new_page, own, pages["run Load"], 4 if quick else SESSIONS),
        }


def table(document: dict[str, Any]) -> str:
    titles = (
        "| page | charts | first figures, s | of a text page | all charts, s | of bare charts |"
    )
    lines = [titles, "|---|---|---|---|---|---|"]
    for row in document["pages"]:
        cells = (_shown(row[name]) for name in ("figures", "text", "all", "bare_charts"))
        lines.append(f"| {row['page']} | {row['charts']} | {' | '.join(cells)} |")
    tab, listed, many = document["tab"], document["list"], document["sessions"]
    lines += [
        f"\nA tab of the run: {_shown(tab['own'])} s, of a bare page {_shown(tab['base'])} s.",
        f"List of sweeps with {document['size']['stored']:,} trials: {listed['cpu_seconds']:.2f} s "
        f"of server CPU, {listed['again_cpu_seconds']:.2f} s again, {listed['mib']:.0f} MiB.",
        f"{many['sessions']} open sessions: {many['mib_per_session']:.1f} MiB each; a visit beside "
        f"them takes {many['visit_seconds']:.2f} s to its charts.",
    ]
    return "\n".join(lines)


def _shown(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} [{found['low']:.2f}..{found['high']:.2f}]"


def _spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def _compared(new_page: Any, url: str, base: str, visits: int) -> dict[str, Any]:
    """A page and its two bare pages in turns, after one visit each that is not counted."""
    charts = _count_charts(new_page, url)
    addresses = {
        "own": (url, charts),
        "text": (base, 0),
        "bare": (f"{base}?charts={charts}", charts),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in addresses}
    for turn in range(visits + 1):
        for name, (address, count) in addresses.items():
            found = _visit(new_page, address, count)
            if turn:
                seconds[name].append(found)
    figures, text = (_spread([first for first, _ in seconds[name]]) for name in ("own", "text"))
    all_, bare = (_spread([last for _, last in seconds[name]]) for name in ("own", "bare"))
    return {
        "charts": charts,
        "figures": figures,
        "text": text,
        "figures_ratio": figures["median"] / text["median"],
        "all": all_,
        "bare_charts": bare,
        "all_ratio": all_["median"] / bare["median"],
    }


def _visit(new_page: Any, url: str, charts: int) -> tuple[float, float]:
    """Seconds until the first figures, and until all charts are drawn."""
    with new_page() as page:
        began = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_function(f"!!{FIGURES}", timeout=WAIT_MS)
        first = time.perf_counter() - began
        page.wait_for_function(SETTLED, arg=charts, timeout=WAIT_MS)
        return first, time.perf_counter() - began


def _count_charts(new_page: Any, url: str) -> int:
    with new_page() as page:
        page.goto(url)
        page.wait_for_function(SETTLED, arg=1, timeout=WAIT_MS)
        page.wait_for_timeout(3000)
        return int(page.evaluate("document.querySelectorAll('.vega-embed .marks').length"))


def _tab(new_page: Any, own: str, base: str, visits: int) -> dict[str, Any]:
    """Seconds from a click on another view until the page has come to rest."""

    def clicked(url: str, charts: int, names: tuple[str, str]) -> list[float]:
        found = []
        with new_page() as page:
            page.goto(url)
            page.wait_for_function(SETTLED, arg=charts, timeout=WAIT_MS)
            for turn in range(2 * visits):
                page.wait_for_timeout(500)
                began = time.perf_counter()
                page.get_by_role("radio", name=names[turn % 2], exact=True).click(force=True)
                page.wait_for_timeout(30)
                page.wait_for_function(SETTLED, arg=charts, timeout=WAIT_MS)
                found.append(time.perf_counter() - began)
        return found

    return {
        "own": _spread(clicked(own, 2, ("Balance", "Load"))),
        "base": _spread(clicked(f"{base}?charts=2", 2, ("B", "A"))),
    }


def _listing(new_page: Any, server: tuple[str, int]) -> dict[str, float]:
    """CPU seconds and memory that the list of sweeps takes; an empty page comes before."""
    url, pid = server
    with new_page() as page:
        page.goto(f"{url}glossary")
        page.get_by_role("heading", name="Glossary").wait_for(timeout=WAIT_MS)
    memory, found = _rss(pid), []
    for _ in range(2):
        before = _cpu(pid)
        _visit(new_page, f"{url}sweeps", 0)
        time.sleep(1.0)
        found.append(_cpu(pid) - before)
        time.sleep(3.0)  # what the server keeps is too old now
    return {"cpu_seconds": found[0], "again_cpu_seconds": found[1], "mib": _rss(pid) - memory}


def _sessions(
    new_page: Any, server: tuple[str, int], address: str, sessions: int
) -> dict[str, float]:
    url, pid = server
    _visit(new_page, url + address, 1)
    memory = _rss(pid)
    with ExitStack() as stack:
        for _ in range(sessions):
            page = stack.enter_context(new_page())
            page.goto(url + address)
            page.wait_for_function(SETTLED, arg=1, timeout=WAIT_MS)
        grown = _rss(pid) - memory
        visit = statistics.median(_visit(new_page, url + address, 2)[1] for _ in range(3))
    return {"sessions": sessions, "mib_per_session": grown / sessions, "visit_seconds": visit}


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss(pid: int) -> float:
    """Resident memory in MiB."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    )


def _bare_command(script: Path, port: int) -> list[str]:
    flags = [f"--{name}={value}" for name, value in OPTIONS.items()]
    where = [f"--server.port={port}", "--server.address=127.0.0.1"]
    return [sys.executable, "-m", "streamlit", "run", str(script), *flags, *where]


@contextmanager
def _served(make: Callable[[int, str], list[str]], home: Path) -> Iterator[tuple[str, int]]:
    """The address and the process of a server."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = os.environ | {"EVENLOAD_HOME": str(home)}
    server = subprocess.Popen(make(port, "127.0.0.1"), env=environment, **quiet)
    try:
        wait_until_healthy(port)
        yield f"http://127.0.0.1:{port}/", server.pid
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _browser() -> Iterator[Any]:
    """Makes pages, each of a context of its own."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SpecError("no chromium on the PATH; install one")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])

        @contextmanager
        def new_page() -> Iterator[Any]:
            context = browser.new_context(viewport={"width": 1440, "height": 900})
            try:
                yield context.new_page()
            finally:
                context.close()

        yield new_page
        browser.close()
