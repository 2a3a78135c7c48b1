"""Times a page from its address to its figures, and measures the size of its charts.

    python -m infra.benchmarks.page_timing run run=<digest> view=Balance

Each process measures one page, so that nothing is cached. The app runs as in a browser session but
without a browser, so the time is that of the server.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

RERUNS = 5


def measure(page: str, query: dict[str, str]) -> dict[str, Any]:
    """Seconds and bytes of one page. The preparation of a server before a visit is separate."""
    started = time.perf_counter()
    from streamlit.testing.v1 import AppTest
    from streamlit.util import calc_hash

    from evenload.dashboard.__main__ import APP, preload

    preload()
    app = AppTest.from_file(str(APP), default_timeout=600)
    # switch_page names a page by its file before the first run, but every file is page.py.
    app._page_hash = calc_hash(page)
    for name, value in query.items():
        app.query_params[name] = value
    imported, processor = time.perf_counter(), time.process_time()
    app.run()
    opened, cold_processor = time.perf_counter(), time.process_time() - processor
    if app.exception:
        raise SystemExit(f"{page} {query}: {app.exception[0].value}")
    reruns = []
    for _ in range(RERUNS):
        again = time.perf_counter()
        app.run()
        reruns.append(time.perf_counter() - again)
    kinds = ("vega_lite_chart", "echarts_chart")
    sizes = [chart.proto.ByteSize() for kind in kinds for chart in app.get(kind)]
    return {
        "page": page,
        "view": query.get("view", ""),
        "prepare_seconds": round(imported - started, 3),
        "cold_seconds": round(opened - imported, 3),
        "cold_processor_seconds": round(cold_processor, 3),  # tells a busy machine from a slow page
        "warm_seconds": round(statistics.median(reruns), 3),
        "charts": len(sizes),
        "largest_chart_bytes": max(sizes, default=0),
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], dict(pair.split("=", 1) for pair in sys.argv[2:]))))
