"""All sweeps: how far they are, what failed, what they took; and how to start another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st
import yaml

from evenload.dashboard import controls, queries
from evenload.dashboard.page_parts import card, live, metrics
from evenload.dashboard.record_tables import sweep_table
from evenload.dashboard.sweeps.new_sweep import (
    Asked,
    Tree,
    checked,
    numbers,
    parsed,
    plan,
    plan_table,
    tree_of,
    what_follows,
)
from evenload.dashboard.sweeps.spending import spent
from evenload.dashboard.wording import SWEEP_STATES, ago
from evenload.pipeline.figures.cost import CostSettings, SweepCost
from evenload.pipeline.figures.wording import NONE, duration, scaled
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import SweepState
from evenload.pipeline.sweep.trial_plan import totals

JOULES_PER_WATT_HOUR = 3600.0
GOING = (SweepState.ACTIVE, SweepState.STOPPING)
STARTING_RULES = ["none", "aux_loss", "sign", "self_tuned"]


def main() -> None:
    st.title("Sweeps", anchor=False)
    view = st.segmented_control(
        "View",
        list(VIEWS),
        default=next(iter(VIEWS)),
        key="view",
        bind="query-params",
        label_visibility="collapsed",
        required=True,
    )
    VIEWS.get(view or "", _all)()


def _all() -> None:
    live(_table, _is_over)
    if controls.are_enabled():
        _steer()


def _is_over() -> bool:
    return not any(sweep.state in GOING for sweep, _ in queries.sweeps())


def _table() -> None:
    found = queries.sweeps()
    table = sweep_table(found)
    if table.empty:
        st.info(
            "No sweeps yet. `evenload quickstart` runs a small one on this machine; "
            "`evenload sweep run SWEEP.yaml` runs yours.",
            icon=":material/rocket_launch:",
        )
        return
    costs = CostSettings()
    by_sweep = {sweep.sweep_id: spent(trials, costs) for sweep, trials in found}
    joules = sum(one.joules for one in by_sweep.values())
    metrics(
        ("Active sweeps", f"{table.state.isin(GOING).sum()}", ""),
        ("Trials running", f"{table.running.sum()}", "training or evaluating now"),
        ("Trials completed", f"{table.completed.sum()} of {table.trials.sum()}", ""),
        ("Trials failed", f"{table.failed.sum()}", "open the sweep to see why"),
        ("Energy", _energy(joules), "of training; the page Cost says how it is counted"),
    )
    picked = st.dataframe(
        _shown(table, [by_sweep[sweep_id] for sweep_id in table.sweep_id]),
        hide_index=True,
        key="sweeps",
        on_select="rerun",
        selection_mode="single-cell",
        column_config=_columns(),
        row_height=42,
    )
    st.caption("Click a sweep to open it. Columns sort by a click on their head.")
    if picked.selection.cells:
        row = picked.selection.cells[0][0]
        st.switch_page("sweep/page.py", query_params={"sweep": table.sweep_id[row]})


def _shown(table: pd.DataFrame, costs: list[SweepCost]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Sweep": table.sweep_id,
            "State": [[SWEEP_STATES[SweepState(state)].text] for state in table.state],
            "Progress": table.progress,
            "Completed": [
                f"{done} of {trials}" if trials else "not listed yet"
                for done, trials in zip(table.completed, table.trials, strict=True)
            ],
            "Running": table.running,
            "Failed": table.failed,
            "Submitted": [ago(when) for when in table.created_at],
            "Ran for": [duration(seconds) for seconds in table.seconds],
            "Time left": [duration(seconds) for seconds in table.eta_seconds],
            "Device time": [_device_time(one) for one in costs],
            "Energy": [_energy(one.joules) for one in costs],
        }
    )


def _device_time(one: SweepCost) -> str:
    parts = [(one.gpu_seconds, "GPU"), (one.core_seconds, "core")]
    return ", ".join(f"{duration(seconds)} {kind}" for seconds, kind in parts if seconds) or NONE


def _energy(joules: float) -> str:
    return scaled(joules / JOULES_PER_WATT_HOUR, "Wh") if joules else NONE


def _columns() -> dict[str, Any]:
    config = st.column_config
    states = SWEEP_STATES.values()
    return {
        "Sweep": config.TextColumn(width="medium"),
        "State": config.MultiselectColumn(
            options=[state.text for state in states], color=[state.colour for state in states]
        ),
        "Progress": config.ProgressColumn(
            format="%.0f %%", min_value=0, max_value=100, help="share of all steps that are done"
        ),
        "Time left": config.TextColumn(help="at the pace so far"),
        "Device time": config.TextColumn(help="of training, over all trials; a core is a thread"),
        "Energy": config.TextColumn(
            help="counted by the GPUs, or modelled; the page Cost says how"
        ),
    }


def _steer() -> None:
    """The verbs of a sweep that is chosen here."""
    steerable = {
        sweep.sweep_id: (sweep, trials)
        for sweep, trials in queries.sweeps()
        if controls.applicable(sweep, trials)
    }
    if not steerable:
        return
    with card("Steer a sweep", "What `evenload sweep VERB ID` does."):
        left, right = st.columns([2, 3], vertical_alignment="bottom")
        sweep_id = left.selectbox("Sweep to steer", list(steerable))
        with right:
            controls.verb_buttons(*steerable[sweep_id])


def _start() -> None:
    """A sweep from a form or a file; its dry run first."""
    source = st.segmented_control(
        "From", ["Form", "YAML file"], default="Form", key="from", bind="query-params",
        required=True,
    )  # fmt: skip
    tree = _uploaded() if source == "YAML file" else tree_of(_form())
    if tree is None:
        return
    spec = checked(tree)
    _dry_run(spec)
    with st.expander("As a file", icon=":material/description:"):
        text = yaml.safe_dump(tree, sort_keys=False)
        st.code(text, language="yaml")
        st.download_button("Download", text, f"{spec.name}.yaml", "application/yaml")
    _submission(spec)


def _uploaded() -> Tree | None:
    file = st.file_uploader("A sweep's YAML file", type=["yaml", "yml"], max_upload_size=1)
    if file is None:
        st.info("A file as `evenload sweep run` takes it. It is checked here; nothing starts yet.")
        return None
    return parsed(file.getvalue())


def _form() -> Asked:
    with card("New sweep", "Every rule and step size, at every expert count, with every seed."):
        first, second, third = st.columns([2, 3, 2])
        name = first.text_input("Name", "step-sizes", max_chars=64)
        rules = second.multiselect("Rules", list(BALANCERS), default=STARTING_RULES)
        sizes = third.multiselect(
            "Step sizes",
            [0.001, 0.003, 0.01, 0.03],
            default=[0.001, 0.01],
            accept_new_options=True,
            help="of every rule that has one",
        )
        first, second, third = st.columns([2, 3, 2])
        preset = first.selectbox("Model", list(PRESETS), help="tiny trains on a CPU")
        experts = second.multiselect(
            "Experts a layer", [8, 16, 32, 64, 128], default=[16, 32], accept_new_options=True
        )
        stopping = third.selectbox("Stop weak trials", ["none", "asha", "extrapolate"])
        columns = st.columns(5)
        steps = columns[0].number_input("Steps", 10, 1_000_000, 200)
        batch = columns[1].number_input("Sequences a step", 1, 65_536, 16)
        seq_len = columns[2].number_input("Tokens a sequence", 2, 65_536, 128)
        seeds = columns[3].number_input("Seeds", 1, 20, 1)
        confirm = columns[4].number_input(
            "Fresh seeds to confirm", 0, 20, 0, help="the best settings are trained again with them"
        )
    return Asked(
        name,
        preset,
        rules,
        numbers("Step sizes", sizes, float),
        numbers("Experts a layer", experts, int),
        seeds,
        steps,
        batch,
        seq_len,
        stopping,
        confirm,
    )


def _dry_run(spec: SweepSpec) -> None:
    plans = plan(spec)
    found = totals(plans)
    st.subheader("Dry run", anchor=False)
    metrics(
        ("Trials", f"{found.trials}", "that the sweep begins with"),
        ("Tokens", scaled(found.tokens), "trained by all of them"),
        ("Compute", scaled(found.train_flops, "FLOP"), "model FLOPs, forward and backward"),
        ("Memory", scaled(found.memory_bytes, "B"), "of the largest trial"),
        ("Disk", scaled(found.disk_bytes, "B"), "checkpoints and loads of all trials, at most"),
    )
    st.dataframe(plan_table(plans), hide_index=True, height="content" if found.trials < 12 else 420)
    st.caption(f"Nothing is started. {what_follows(spec)}")


def _submission(spec: SweepSpec) -> None:
    enabled = controls.are_enabled()
    if not enabled:
        st.info(
            f"Starting sweeps from here is off. {controls.REMEDY} Or save the file and run "
            f"`evenload sweep submit {spec.name}.yaml`.",
            icon=":material/lock:",
        )
    if st.button("Submit", type="primary", icon=":material/rocket_launch:", disabled=not enabled):
        sweep_id = queries.store().submit(spec)
        queries.forget()
        st.switch_page("sweep/page.py", query_params={"sweep": sweep_id})


# A view of the page is a line.
VIEWS: dict[str, Callable[[], None]] = {"All sweeps": _all, "Start a sweep": _start}

main()
