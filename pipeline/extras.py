"""The extras of evenload and the libraries that they install."""

from importlib.util import find_spec

from evenload.pipeline.errors import SpecError

# The imported libraries of each extra. All others are installed by `pip install evenload`.
LIBRARIES = {
    "dashboard": ("altair", "pandas", "streamlit"),
    "hf": ("datasets", "safetensors", "transformers"),
    "mcp": ("mcp", "uvicorn"),
    "mlflow": ("mlflow",),
    "report": ("jinja2", "markupsafe", "vl_convert"),
    "workers": ("optuna", "pynvml", "ray", "tokenizers", "torch", "triton"),
}
EXTRAS = {library: extra for extra, found in LIBRARIES.items() for library in found}

# The libraries without which training and the dashboard cannot start.
WORKERS = ("torch", "ray", "mlflow")
DASHBOARD = ("streamlit", "pandas", "altair")


def remedy(library: str) -> str:
    """The command that installs a library of EXTRAS."""
    return f"pip install 'evenload[{EXTRAS[library]}]'"


def explanation(error: ModuleNotFoundError) -> str | None:
    """What is missing and how to install it; None if no extra installs the missing module."""
    library = (error.name or "").partition(".")[0]
    return f"{library} is not installed; run: {remedy(library)}" if library in EXTRAS else None


def require(*libraries: str) -> None:
    """Checks that libraries are installed, before a command starts anything.

    Raises:   SpecError: names the first missing library and how to install it
    """
    for library in libraries:
        if find_spec(library) is None:
            raise SpecError(f"{library} is not installed; run: {remedy(library)}")
