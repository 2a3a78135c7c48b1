"""All sweeps with their progress and cost, and a form to start another one."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from evenload.dashboard import controls, page_parts, queries, shown_runs, wording
from evenload.dashboard.record_tables import sweep_table
from evenload.dashboard.sweeps import new_sweep
from evenload.pipeline.errors import SpecError
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.wording import duration, scaled
from evenload.pipeline.settings import current_settings
from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.yaml_text import yaml_of
from evenload.pipeline.sweep.trial_plan import disk_shortage, totals

NUMBERS = (  # of the form: title, smallest and largest value, default
    ("Steps", 10, 1_000_000, 200),
    ("Sequences per step", 1, 65_536, 16),
    ("Tokens per sequence", 2, 65_536, 128),
    ("Seeds", 1, 20, 1),
    ("Fresh seeds to confirm", 0, 20, 0),
)
STARTING_RULES = ["none", "aux_loss", "sign", "self_tuned"]


def main() -> None:
    st.title("Sweeps", anchor=False)
    recorded = shown_runs.recorded()
    if recorded:
        st.page_link(
            "run/page.py",
            label=f"Recorded runs: {len(recorded)}",
            icon=":material/monitoring:",
            query_params={"run": next(iter(recorded))},
        )
    VIEWS[page_parts.chosen_view(VIEWS)]()


def _all() -> None:
    page_parts.live(_table, _is_over)
    if controls.are_enabled():
        _steer()


def _is_over() -> bool:
    return not any(one.sweep.state.is_going for one in queries.overviews())


def _table() -> None:
    found = queries.overviews()
    table = sweep_table(found)
    if table.empty:
        st.info(
            "No sweeps yet. `evenload quickstart` runs a small one on this machine, and "
            "`evenload sweep run SWEEP.yaml` runs your own.",
            icon=":material/rocket_launch:",
        )
        return
    page_parts.metrics(
        ("Active sweeps", f"{sum(one.sweep.state.is_going for one in found)}", ""),
        ("Trials running", f"{table.running.sum()}", "training or evaluating now"),
        ("Trials completed", f"{table.completed.sum()} of {table.trials.sum()}", ""),
        ("Trials failed", f"{table.failed.sum()}", "open the sweep to see why"),
    )
    row = page_parts.clicked_row(_shown(table), "sweeps", _columns(), row_height=42)
    st.caption("Click a sweep to open it. Click the head of a column to sort by it.")
    if row is not None:
        st.switch_page("sweep/page.py", query_params={"sweep": table.sweep_id[row]})


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    columns = {
        "Sweep": table.sweep_id,
        "State": [[state] for state in table.state],
        "Progress": table.progress,
        "Completed": [
            f"{done} of {trials}" if trials else "not listed yet"
            for done, trials in zip(table.completed, table.trials, strict=True)
        ],
        "Running": table.running,
        "Failed": table.failed,
        "Submitted": [wording.ago(when) for when in table.created_at],
        "Ran for": [duration(seconds) for seconds in table.seconds],
        "Time left": [duration(seconds) for seconds in table.eta_seconds],
    }
    return pd.DataFrame(columns)


def _columns() -> dict[str, Any]:
    config = st.column_config
    states = [*wording.SWEEP_STATES.values(), wording.WITH_FAILURES, wording.ALL_FAILED]
    return {
        "Sweep": config.TextColumn(width="medium"),
        "State": config.MultiselectColumn(
            options=[state.text for state in states], color=[state.colour for state in states]
        ),
        "Progress": config.ProgressColumn(
            format="%.0f %%", min_value=0, max_value=100, help="share of all steps that are done"
        ),
        "Time left": config.TextColumn(help="at the pace so far"),
    }


def _steer() -> None:
    """A choice of a sweep and the buttons of its verbs."""
    steerable = {
        one.sweep.sweep_id: (one.sweep, one.failed)
        for one in queries.overviews()
        if controls.applicable(one.sweep, one.failed)
    }
    if not steerable:
        return
    with page_parts.card("Steer a sweep", "Does the same as `evenload sweep VERB ID`."):
        left, right = st.columns([2, 3], vertical_alignment="bottom")
        sweep_id = left.selectbox("Sweep to steer", list(steerable))
        with right:
            controls.verb_buttons(*steerable[sweep_id])


def _start() -> None:
    """A form or a file for a sweep, with a dry run and a button to submit it."""
    source = page_parts.switch("From", ["Form", "YAML file"], "from")
    tree = _uploaded() if source == "YAML file" else new_sweep.tree_of(_form())
    if tree is None:
        return
    spec = new_sweep.checked(tree)
    _dry_run(spec)
    with st.expander("As a file", icon=":material/description:"):
        text = yaml_of(tree)
        st.code(text, language="yaml")
        st.download_button("Download", text, f"{spec.name}.yaml", "application/yaml")
    _submission(spec)


def _uploaded() -> new_sweep.Tree | None:
    if not controls.are_enabled():
        st.info(f"This dashboard takes no files. {controls.REMEDY}", icon=":material/lock:")
        return None
    file = st.file_uploader("A sweep's YAML file", type=["yaml", "yml"], max_upload_size=1)
    if file is None:
        st.info("The file is like that for `evenload sweep run`. It is only checked at first.")
        return None
    return new_sweep.parsed(file.getvalue())


def _form() -> new_sweep.Asked:
    with page_parts.card(
        "New sweep", "Trains every rule and step size at every expert count and seed."
    ):
        first, second, third = st.columns([2, 3, 2])
        name = first.text_input("Name", "step-sizes", max_chars=64)
        rules = second.multiselect("Rules", list(BALANCERS), default=STARTING_RULES)
        sizes = third.multiselect(
            "Step sizes",
            [0.001, 0.003, 0.01, 0.03],
            default=[0.001, 0.01],
            accept_new_options=True,
            help="for every rule with a step size",
        )
        first, second, third = st.columns([2, 3, 2])
        preset = first.selectbox("Model", list(PRESETS), help="tiny trains on a CPU")
        experts = second.multiselect(
            "Experts per layer", [8, 16, 32, 64, 128], default=[16, 32], accept_new_options=True
        )
        stopping = third.selectbox("Stop weak trials", ["none", "asha", "extrapolate"])
        problems: list[str] = []
        steps, batch, seq_len, seeds, confirm = (
            page_parts.number_field(column, label, low, high, value, problems)
            for column, (label, low, high, value) in zip(st.columns(5), NUMBERS, strict=True)
        )
    if problems:
        raise SpecError("; ".join(problems))
    return new_sweep.Asked(
        name,
        preset,
        rules,
        new_sweep.numbers("Step sizes", sizes, float),
        new_sweep.numbers("Experts per layer", experts, int),
        seeds,
        steps,
        batch,
        seq_len,
        stopping,
        confirm,
    )


def _dry_run(spec: SweepSpec) -> None:
    plans = new_sweep.plan(spec)
    found = totals(plans)
    st.subheader("Dry run", anchor=False)
    page_parts.metrics(
        ("Trials", f"{found.trials}", "at the beginning of the sweep"),
        ("Tokens", scaled(found.tokens), "of all trials together"),
        ("Compute", scaled(found.train_flops, "FLOP"), "model FLOPs, forward and backward"),
        ("Memory", scaled(found.memory_bytes, "B"), "of the largest trial"),
        ("Disk", scaled(found.disk_bytes, "B"), "checkpoints and loads of all trials, at most"),
    )
    st.dataframe(
        new_sweep.plan_table(plans),
        hide_index=True,
        placeholder="–",
        height="content" if found.trials < 12 else 420,
    )
    st.caption(f"Nothing is started yet. {new_sweep.what_follows(spec)}")
    if problem := disk_shortage(plans, current_settings().root):
        st.error(for_markdown(problem[0].upper() + problem[1:] + "."))


def _submission(spec: SweepSpec) -> None:
    enabled = controls.are_enabled()
    if not enabled:
        st.info(
            f"This dashboard may not start sweeps. {controls.REMEDY} Or save the file and run "
            f"`evenload sweep submit {spec.name}.yaml`.",
            icon=":material/lock:",
        )
    if st.button("Submit", type="primary", icon=":material/rocket_launch:", disabled=not enabled):
        sweep_id = queries.store().submit(spec)
        queries.forget()
        st.switch_page("sweep/page.py", query_params={"sweep": sweep_id})


# The views of the page, by title.
VIEWS: dict[str, Callable[[], None]] = {"All sweeps": _all, "Start a sweep": _start}

main()
