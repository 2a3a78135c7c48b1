"""Reads the data of the theory page: simulations, their results, recorded scores. Cached."""

from pathlib import Path

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard.theory.simulation_processes import Simulations, recordings_below
from evenload.dashboard.theory.tables import Document
from evenload.pipeline.settings import Settings


def simulations() -> Simulations:
    """The simulations of this home, which all viewers share."""
    return _simulations(Settings().root / "simulations")


def simulation_result(digest: str) -> Document:
    """The result of a simulation.  Raises: SpecError: it has no result"""
    return _simulation_result(Settings().root / "simulations", digest)


def simulated_max_vio(digest: str) -> dict[tuple[str, str], NDArray[np.float32]]:
    """MaxVio of every step by (stream, rule)."""
    return _simulated_max_vio(Settings().root / "simulations", digest)


def recordings() -> list[Path]:
    """Recorded router scores of this home, newest first."""
    return recordings_below(Settings().root)


@st.cache_resource(max_entries=4)
def _simulations(folder: Path) -> Simulations:
    return Simulations(folder)


@st.cache_data(max_entries=16, show_spinner=False)
def _simulation_result(folder: Path, digest: str) -> Document:
    return _simulations(folder).result(digest)


@st.cache_data(max_entries=16, show_spinner=False)
def _simulated_max_vio(folder: Path, digest: str) -> dict[tuple[str, str], NDArray[np.float32]]:
    return _simulations(folder).max_vio(digest)
