"""What training took of its machine: processor, memory, accelerators."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import streamlit as st

from evenload.dashboard.charts.system import resource_curve
from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run import queries as run_queries
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord


class Resource(NamedTuple):
    title: str
    unit: str
    explanation: str


# By the name of the sampled figure; one that a host does not have is left out.
RESOURCES: dict[str, Resource] = {
    "processor_percent": Resource(
        "Processor", "% of a core", "Of the worker's process; 100 % is one busy core."
    ),
    "memory_gib": Resource("Memory", "GiB", "Resident memory of the worker's process."),
    "host_load": Resource("Load of the host", "processes", "Runnable processes, mean of a minute."),
    "host_memory_percent": Resource("Memory of the host", "% in use", "All processes together."),
    "gpu_percent": Resource("GPU", "% busy", "Share of time with a kernel running; mean of GPUs."),
    "gpu_memory_gib": Resource("GPU memory", "GiB", "In use on the trial's GPUs, summed."),
    "gpu_watts": Resource("GPU power", "W", "Drawn by the trial's GPUs, summed."),
}


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    samples = run_queries.system_samples(trial)
    shown = {
        name: resource for name, resource in RESOURCES.items() if np.isfinite(samples[name]).any()
    }
    if not shown:
        st.info(
            "No sample of the worker's machine is here: the run has not started, or it is older "
            "than this record.",
            icon=":material/memory:",
        )
        return
    columns = st.columns(2)
    for position, (name, resource) in enumerate(shown.items()):
        known = np.isfinite(samples[name])
        with columns[position % 2], card(resource.title, resource.explanation, metric="system"):
            plot(
                resource_curve(
                    samples[name][known], samples["step"][known], resource.title, resource.unit
                ),
                key=f"system-{name.replace('_', '-')}",
                caption=f"{known.sum():,} samples.",
            )
