"""Which extra of evenload brings the libraries that not every install has."""

from __future__ import annotations

from importlib.util import find_spec

from evenload.pipeline.errors import SpecError

# By the name that is imported. What is not here comes with `pip install evenload`.
EXTRAS = {
    "datasets": "hf",
    "mlflow": "mlflow",
    "optuna": "workers",
    "pandas": "dashboard",
    "plotly": "dashboard",
    "pynvml": "workers",
    "ray": "workers",
    "streamlit": "dashboard",
    "tokenizers": "workers",
    "torch": "workers",
    "triton": "workers",
}


def remedy(error: ModuleNotFoundError) -> str | None:
    """What to install, as a sentence; None: no extra has the missing module."""
    library = (error.name or "").partition(".")[0]
    return _sentence(library) if library in EXTRAS else None


def require(*libraries: str) -> None:
    """For what is run as a process of its own.  Raises: SpecError: the first that is missing"""
    for library in libraries:
        if find_spec(library) is None:
            raise SpecError(_sentence(library))


def _sentence(library: str) -> str:
    extra = EXTRAS[library]
    return f"{library} is not installed; run: pip install 'evenload[{extra}]'"
