"""`python -m dashboard`: serves the app. The options travel with the command, not with a folder."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

APP = Path(__file__).parent / "app.py"

OPTIONS: dict[str, str] = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",  # viewers get no paths and no source
    "client.toolbarMode": "viewer",  # its menu has the choice between light, dark and the system's
    "theme.baseRadius": "8px",
    "theme.headingFontSizes": '["1.75rem", "1.35rem", "1.2rem"]',
    "theme.headingFontWeights": "[650, 600, 600]",
    "theme.metricValueFontSize": "1.45rem",
    "theme.metricValueFontWeight": "600",
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


def command(port: int, address: str) -> list[str]:
    """The `streamlit run` that serves the app."""
    options = OPTIONS | {"server.port": str(port), "server.address": address}
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m dashboard", description="Serve the dashboard.")
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--address", default="127.0.0.1", help="interface to listen on")
    given = parser.parse_args()
    arguments = command(given.port, given.address)
    os.execv(arguments[0], arguments)  # one process: who ends it ends the server


if __name__ == "__main__":
    main()
