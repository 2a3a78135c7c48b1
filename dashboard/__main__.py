"""`python -m evenload.dashboard`: serves the app."""

import argparse
import importlib
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import DASHBOARD, require
from evenload.pipeline.redaction import start_logging
from evenload.pipeline.settings import Settings

APP = Path(__file__).parent / "app.py"

OPTIONS: dict[str, str] = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.maxUploadSize": "1",  # MB
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",  # viewers must not see paths and source code
    "client.showErrorLinks": "false",  # to search engines
    "client.toolbarMode": "viewer",  # its menu offers light, dark and the system's theme
    "runner.magicEnabled": "false",  # it rewrites every page before every run, and none needs it
    "theme.baseRadius": "8px",
    "theme.headingFontSizes": '["1.75rem", "1.35rem", "1.2rem"]',
    "theme.headingFontWeights": "[650, 600, 600]",
    "theme.light.primaryColor": "#2b6cb0",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f4f6f9",
    "theme.light.textColor": "#1f2933",
    "theme.light.borderColor": "#dfe5ec",
    "theme.dark.primaryColor": "#63a4ea",
    "theme.dark.backgroundColor": "#10151d",
    "theme.dark.secondaryBackgroundColor": "#1b222c",
    "theme.dark.textColor": "#e6eaef",
    "theme.dark.borderColor": "#2f3945",
}


# Modules whose import would otherwise keep the first visitor waiting, for about two seconds.
PRELOADED = (
    "pandas",
    "altair",
    "evenload.dashboard.page_parts",
    "evenload.dashboard.queries",
    "evenload.dashboard.run.queries",
    "evenload.pipeline.sweep.answer",
    "scipy.optimize",  # for the answer
    "scipy.special",
)


def command(port: int, address: str) -> list[str]:
    """The command that serves the app in its own process."""
    where = ["--port", str(port), "--address", address]
    return [sys.executable, "-P", "-m", "evenload.dashboard", *where]


def streamlit_arguments(port: int, address: str, hosts: Sequence[str]) -> list[str]:
    """The arguments of `streamlit`.  Args: hosts: the names that the server answers to"""
    options = OPTIONS | {"server.port": str(port), "server.address": address}
    # Without an address of its own streamlit asks a third party for one.
    options["browser.serverAddress"] = hosts[0] if address in ("0.0.0.0", "::") else address
    flags = [f"--{name}={value}" for name, value in options.items()]
    return ["run", str(APP), *flags, *(f"--server.allowedHosts={host}" for host in hosts)]


def preload() -> None:
    """Imports modules that every page needs, and draws a chart, which altair prepares once."""
    for module in PRELOADED:
        importlib.import_module(module)
    import numpy as np
    from altair.utils import schemapi

    from evenload.pipeline.charts.loads import load_by_layer

    schemapi.DEBUG_MODE = False  # a chart is checked as a whole, and not each of its parts as well
    # Built and not written out: altair writes with settings that all threads share, and a page
    # that is drawn meanwhile would find those of this one.
    load_by_layer(np.full((1, 2), 100, np.int16), ["0"])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m evenload.dashboard", description="Serve the dashboard."
    )
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--address", default="127.0.0.1", help="interface to listen on")
    given = parser.parse_args()
    try:
        require(*DASHBOARD)
    except SpecError as error:
        parser.error(str(error))
    from streamlit import net_util
    from streamlit.web.cli import main as streamlit

    # Streamlit would ask others for these whenever a foreign page connects.
    net_util._external_ip = net_util._internal_ip = "none.invalid"
    settings = Settings()
    start_logging(settings)
    threading.Thread(target=preload, daemon=True).start()
    arguments = streamlit_arguments(given.port, given.address, settings.host_names(given.address))
    streamlit(arguments, prog_name="streamlit")


if __name__ == "__main__":
    main()
