"""How much of its machine the training used: processor, memory, accelerators."""

from typing import NamedTuple

import numpy as np
import streamlit as st

from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.run import queries as run_queries
from evenload.pipeline.charts.over_time import single_curve
from evenload.pipeline.records.load_series import LoadSeries
from evenload.pipeline.states import TrialRecord


class Resource(NamedTuple):
    title: str
    unit: str
    explanation: str


# By name of the sampled figure. Figures that a host does not have are left out.
RESOURCES: dict[str, Resource] = {
    "processor_percent": Resource(
        "Processor", "% of a core", "The worker's process; 100 % is one busy core."
    ),
    "memory_gib": Resource("Memory", "GiB", "Resident memory of the worker's process."),
    "host_load": Resource("Load of the host", "processes", "Runnable processes, minute mean."),
    "host_memory_percent": Resource("Memory of the host", "% in use", "All processes together."),
    "gpu_percent": Resource("GPU", "% busy", "Share of time with a kernel running; mean of GPUs."),
    "gpu_memory_gib": Resource("GPU memory", "GiB", "Memory in use, sum over the trial's GPUs."),
    "gpu_watts": Resource("GPU power", "W", "Power drawn, sum over the trial's GPUs."),
}


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    samples = run_queries.system_samples(trial)
    shown = {
        name: resource for name, resource in RESOURCES.items() if np.isfinite(samples[name]).any()
    }
    if not shown:
        st.info(
            "There are no samples of the worker's machine here. The run has not started, or a "
            "former version without samples ran it.",
            icon=":material/memory:",
        )
        return
    columns = st.columns(2)
    for position, (name, resource) in enumerate(shown.items()):
        known = np.isfinite(samples[name])
        with columns[position % 2], card(resource.title, resource.explanation, metric="system"):
            chart = single_curve(
                samples[name][known],
                samples["step"][known],
                f"{resource.title}, {resource.unit}",
                ",.1f",
                height=260,
            )
            plot(chart, f"system-{name.replace('_', '-')}", f"{known.sum():,} samples.")
