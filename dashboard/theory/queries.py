"""Reads the simulations that `evenload simulate --out` wrote into the home. Cached."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard.theory.tables import Document
from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import current_settings
from evenload.pipeline.spec.simulation import SimulationSpec

RESULT, HISTORY = "result.json", "history.parquet"  # as `evenload simulate --out` names them


def simulations() -> list[str]:
    """The names of their folders, newest first."""
    found = list(_folder().glob(f"*/{RESULT}"))
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [path.parent.name for path in found]


def simulation_result(name: str) -> Document:
    """The JSON document of the command.  Raises: SpecError: it cannot be read"""
    path = _folder() / name / RESULT
    return _result(path, path.stat().st_mtime)


def simulated_max_vio(name: str) -> dict[tuple[str, str], NDArray[np.float32]]:
    """MaxVio of every step, mean over seeds, by (stream, rule).  Raises: SpecError"""
    path = _folder() / name / HISTORY
    return _max_vio(path, path.stat().st_mtime if path.exists() else 0.0)


def _folder() -> Path:
    return current_settings().root / "simulations"


@st.cache_data(max_entries=16, show_spinner=False)
def _result(path: Path, changed: float) -> Document:
    try:
        content: Document = json.loads(path.read_bytes())
        SimulationSpec.model_validate(content["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from None
    return content


@st.cache_data(max_entries=16, show_spinner=False)
def _max_vio(path: Path, changed: float) -> dict[tuple[str, str], NDArray[np.float32]]:
    try:
        table = pq.read_table(path, columns=["stream", "rule", "step", "max_vio"])
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise _unreadable(path, error) from None
    by_step = table.to_pandas().groupby(["stream", "rule", "step"], observed=True, sort=True)
    return {
        (str(stream), str(rule)): values.to_numpy(np.float32)
        for (stream, rule), values in by_step["max_vio"]
        .mean()
        .groupby(["stream", "rule"], observed=True)
    }


def _unreadable(path: Path, error: Exception) -> SpecError:
    reason = str(error).partition("\n")[0]
    return SpecError(f"{path.parent.name}/{path.name} cannot be read ({reason}); simulate again")
