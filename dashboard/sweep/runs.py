"""All runs of a sweep in one table, which drives linked charts of them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.loss_unit import loss_unit
from evenload.dashboard.page_parts import KEPT_RUNS, card, metric_columns, plot
from evenload.dashboard.record_tables import further, trial_table
from evenload.dashboard.sweep.parameters import varying
from evenload.dashboard.sweep.tables import axes as axes_over
from evenload.dashboard.sweep.tables import outcomes
from evenload.dashboard.wording import TRIAL_STATES
from evenload.pipeline.charts.parameters import ParallelAxis, linked_runs
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.loss_unit import LossUnit
from evenload.pipeline.figures.metrics import columns
from evenload.pipeline.figures.wording import counted
from evenload.pipeline.states import SweepRecord, TrialRecord, TrialState
from evenload.pipeline.sweep.axes import Axes

MAX_FAILURES = 20  # largest number of tracebacks on the page
TALLEST = 430  # pixels of the table; longer ones scroll
MOST_COMPARED = 8
LEAST_DIGEST = 5  # shorter words are no beginnings of digests, which have numbers, too
EACH = "each run"


def runs_section(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """A filter, linked charts of the runs that pass it, and their table."""
    named = queries.answer(sweep.sweep_id).axes
    unit = loss_unit(trials)
    words, group, *shown = _choices(trials, unit)
    kept = [t for t in trials if all(_has(t, named, word) for word in words.lower().split())]
    axes = axes_over(kept, varying(kept), unit)
    titles = [axis.title for axis in axes]
    if len(kept) > 1 and all(title in titles for title in shown):
        names = {trial.digest: named.name(trial) for trial in kept}
        with card("Runs", "Drag in either chart to keep the runs there; a click opens one."):
            chart = linked_runs(axes, names, (shown[0], shown[1], shown[2]), _picked())
            caption = "Drag to pick, click to open a run. Selected runs are drawn on top."
            brushed = _brushed(axes, kept, shown, plot(chart, "runs", caption))
            kept = [trial for trial in kept if trial.digest in brushed]
    if group == EACH:
        _table(kept, named, unit, words)
    else:
        _groups(kept, named, unit, group)
    _failures([trial for trial in trials if trial.state is TrialState.FAILED], named)


def _has(trial: TrialRecord, named: Axes, word: str) -> bool:
    """Whether the name or state of a run has the word, or its digest begins with it."""
    text = f"{named.name(trial)} {TRIAL_STATES[trial.state].text}".lower()
    return word in text or (len(word) > LEAST_DIGEST and trial.digest.startswith(word))


def _choices(trials: Sequence[TrialRecord], unit: LossUnit) -> list[str]:
    """The filter, the group, and the figures of x, y and the colour; all are in the address."""
    places = st.columns([3, 2, 2, 2, 2])
    words = places[0].text_input(
        "Filter", key="filter", bind="query-params", placeholder="words, as: sign 16 experts failed"
    )
    parameters = varying(trials)
    groups = [EACH, *(parameter.name for parameter in parameters)]
    found = [axis.title for axis in axes_over(trials, parameters, unit)]
    reached = [title for title in outcomes(unit).values() if title in found] or found
    starts = {"x": reached[1:2] or reached, "y": reached, "colour": reached[1:2] or reached}
    chosen = [places[1].selectbox("One row for", groups, key="group", bind="query-params")]
    for place, (name, start) in zip(places[2:], starts.items(), strict=True):
        index = found.index(start[0]) if start else None
        title = name.capitalize()
        chosen.append(
            place.selectbox(title, found, index=index, key=name, bind="query-params") or ""
        )
    return [words or "", *map(str, chosen)]


def _brushed(
    axes: Sequence[ParallelAxis],
    trials: Sequence[TrialRecord],
    shown: Sequence[str],
    selected: Mapping[str, Any],
) -> set[str]:
    """The digests of the trials within both brushes."""
    digests = [trial.digest for trial in trials]
    found = set(digests)
    by_title = {axis.title: axis for axis in axes}
    for name, title in zip(("x", "y"), shown, strict=False):
        if name in (region := selected.get("region") or {}):
            values = by_title[title].value_T
            found &= {d for d, v in zip(digests, values, strict=True) if _within(v, region[name])}
    if along := selected.get("along"):
        low, high = sorted(along["at"])
        passing = {
            digest
            for title in along["axis"]
            for digest, at in zip(digests, by_title[title].places, strict=True)
            if at is not None and low <= at <= high
        }
        found &= passing
    return found


def _within(value: float | str | None, ends: Sequence[Any]) -> bool:
    if isinstance(value, str):
        return value in ends
    return value is not None and min(ends) <= value <= max(ends)


def _table(kept: Sequence[TrialRecord], named: Axes, unit: LossUnit, words: str) -> None:
    """One row per run: a click on a cell opens it, boxes at the left select runs."""
    if not kept:
        st.info(f"No run has “{for_markdown(words)}” in its name or state.")
        return
    table, config = trial_table(kept, named, unit), _columns(named, unit)
    picked, digests = _picked(), list(table.digest)
    key = f"runs-{hash(tuple(digests))}"  # rows are numbers: other runs are another table
    state = st.dataframe(
        _shown(table, config),
        hide_index=True,
        key=key,
        on_select=partial(_pick, key, digests),
        selection_mode=["multi-row", "single-cell"],
        selection_default={
            "selection": {"rows": [row for row, one in enumerate(digests) if one in picked]}
        },
        column_config=config,
        placeholder="–",
        height="content" if len(table) * 35 < TALLEST else TALLEST,
    )
    if cells := state.selection.cells:
        st.switch_page("run/page.py", query_params={"run": digests[cells[0][0]]})
    st.session_state[KEPT_RUNS] = picked
    st.caption(
        f"{counted(len(table), 'run')}, {len(picked)} selected. A click on a cell opens its run. "
        "Menu of a column: sort, hide."
    )


def compare_link(trials: Sequence[TrialRecord]) -> None:
    """A link to the comparison of the selected runs, if there are some that can be compared."""
    known = {trial.digest for trial in trials}
    if not known.issuperset(_picked()):  # the rest of the address is of no run of the sweep
        st.query_params["picked"] = ",".join(digest for digest in _picked() if digest in known)
    picked = _picked()
    if 2 <= len(picked) <= MOST_COMPARED:
        st.page_link(
            "compare/page.py",
            label=f"Compare {len(picked)} runs",
            icon=":material/compare_arrows:",
            query_params={"runs": ",".join(picked)},
        )


def _picked() -> list[str]:
    """The digests of the selected runs, which are in the address."""
    return [digest for digest in st.query_params.get("picked", "").split(",") if digest]


def _pick(key: str, digests: Sequence[str]) -> None:
    """Puts the selected rows into the address; selected runs that the table lacks stay."""
    others = [digest for digest in _picked() if digest not in digests]
    rows = st.session_state[key].selection.rows
    st.query_params["picked"] = ",".join([*others, *(digests[row] for row in rows)])


def _groups(kept: Sequence[TrialRecord], named: Axes, unit: LossUnit, group: str) -> None:
    """One row per value of a parameter, with means over the complete runs."""
    values = next((p.values for p in varying(kept) if p.name == group), None)
    if values is None:
        st.info(f"All these runs have the same {for_markdown(group)}.")
        return
    table = trial_table(kept, named, unit)
    shown = [metric.name for metric in columns() if metric.name in table]
    rows = table[shown].groupby([str(value) for value in values], sort=False).mean()
    rows.insert(0, "runs", [[str(v) for v in values].count(name) for name in rows.index])
    st.dataframe(
        rows.reset_index(names=group),
        hide_index=True,
        column_config=metric_columns(columns(), unit),
        placeholder="–",
    )
    st.caption("Means over the runs that have the figure.")


def _shown(table: pd.DataFrame, config: dict[str, Any]) -> pd.DataFrame:
    states = table.state.map(lambda state: [TRIAL_STATES[TrialState(state)].text])
    return table.assign(state=states)[[*config]]


def _columns(axes: Axes, unit: LossUnit) -> dict[str, Any]:
    config = st.column_config
    states = TRIAL_STATES.values()
    return {
        "rule": config.TextColumn("Rule", pinned=True),
        "step_size": config.NumberColumn("Step size", format="%.4g"),
        "experts": config.NumberColumn("Experts", help="routed experts per layer"),
        **{key: config.Column(key.rpartition(".")[2].replace("_", " ")) for key in further(axes)},
        "seed": config.NumberColumn("Seed"),
        "state": config.MultiselectColumn(
            "State",
            options=[state.text for state in states],
            color=[state.colour for state in states],
        ),
        "progress": config.ProgressColumn("Steps", format="%.0f %%", min_value=0, max_value=100),
        **metric_columns(columns(), unit),
        "failures": config.NumberColumn("Retries", help="attempts that were lost and repeated"),
    }


def _failures(failed: Sequence[TrialRecord], axes: Axes) -> None:
    if not failed:
        return
    st.subheader("Failed trials", anchor=False)
    for trial in failed[:MAX_FAILURES]:
        when = (
            f"after step {trial.progress.step:,}" if trial.progress else "before a progress report"
        )
        with st.expander(f"{for_markdown(axes.name(trial))}: failed {when}"):
            st.code(trial.error or "no traceback was recorded", language="python")
            st.page_link(
                "run/page.py",
                label="Open the run",
                icon=":material/monitoring:",
                query_params={"run": trial.digest},
            )
    if len(failed) > MAX_FAILURES:
        st.caption(f"{len(failed) - MAX_FAILURES} more failed; see `evenload sweep status`.")
