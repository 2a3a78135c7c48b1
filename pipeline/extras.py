"""Which extra of evenload brings a library that not every install has."""

from __future__ import annotations

from importlib.util import find_spec

from evenload.pipeline.errors import SpecError

# By the name that is imported. Whatever is not here comes with `pip install evenload`.
EXTRAS = {
    "altair": "report",
    "datasets": "hf",
    "mlflow": "mlflow",
    "optuna": "workers",
    "pandas": "dashboard",
    "plotly": "dashboard",
    "pynvml": "workers",
    "ray": "workers",
    "safetensors": "hf",
    "streamlit": "dashboard",
    "tokenizers": "workers",
    "torch": "workers",
    "transformers": "hf",
    "triton": "workers",
    "vl_convert": "report",
}

# What training and the dashboard's process cannot start without.
WORKERS = ("torch", "ray", "mlflow")
DASHBOARD = ("streamlit", "pandas", "plotly")


def remedy(library: str) -> str:
    """The command that installs a library of EXTRAS."""
    return f"pip install 'evenload[{EXTRAS[library]}]'"


def explanation(error: ModuleNotFoundError) -> str | None:
    """What is missing and how to install it, or None if no extra brings the missing module."""
    library = (error.name or "").partition(".")[0]
    return f"{library} is not installed; run: {remedy(library)}" if library in EXTRAS else None


def require(*libraries: str) -> None:
    """Checks what a command needs before it starts anything.

    Raises:   SpecError: the first library that is not installed, and how to install it
    """
    for library in libraries:
        if find_spec(library) is None:
            raise SpecError(f"{library} is not installed; run: {remedy(library)}")
