"""The cost of imbalance: how much time, money and energy ranks waste by waiting for the fullest."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from evenload.dashboard import queries, shown_runs
from evenload.dashboard.cost import queries as cost_queries
from evenload.dashboard.cost import tables
from evenload.dashboard.page_parts import (
    audit_note,
    card,
    chosen,
    live,
    metrics,
    number_field,
    plot,
)
from evenload.dashboard.sweeps.spending import spent
from evenload.pipeline.charts.cost import SettingWaits, waits_by_ranks, waits_by_setting
from evenload.pipeline.errors import SpecError
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.cost import CostSettings, basis
from evenload.pipeline.figures.wording import duration, number, scaled
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.answer import Answer

START_PRICE, START_HOURS, START_RANKS = 2.5, 1000.0, 8
RECORDED = "recorded runs"
EXPLANATION = (
    "Experts are placed on the ranks in order, equally many on each. In every layer all ranks wait "
    "for the fullest one, and the time of a step is taken as proportional to model FLOPs. This is "
    "a lower bound: micro-batches are less even than a step, and communication is left out."
)


def main() -> None:
    title, choice = st.columns([3, 2], vertical_alignment="center")
    title.title("Cost of imbalance", anchor=False)
    recorded = shown_runs.recorded()
    names = [*shown_runs.sweep_ids(), *([RECORDED] if recorded else [])]
    if not names:
        st.info("No sweeps yet. `evenload quickstart` runs a small sweep.")
        return
    with choice:
        sweep_id = chosen("Sweep", names, "sweep", str)
    if sweep_id == RECORDED:
        live(_recorded_body, lambda: all(map(shown_runs.is_over, recorded.values())))
    else:
        live(partial(_body, sweep_id), partial(queries.is_over, sweep_id))


def _recorded_body() -> None:
    """The same of recorded runs. What share experts have of their steps is not known."""
    runs = shown_runs.recorded().values()
    shares = [(run, cost_queries.expert_waits(run)) for run in runs]
    found = [
        SettingWaits(run.run_id, share_R, share_R, share_R, run.shape.num_experts)
        for run, share_R in shares
        if share_R
    ]
    available = tables.sizes(found)
    if not available:
        st.info("No steps are recorded yet, or no expert-parallel size divides the experts.")
        return
    plan = _planned(available, CostSettings())
    st.caption(
        "Of the time that expert layers take: what else a step of a recorded run takes is not "
        f"known. Last quarter of each run, at most {cost_queries.LAST_STEPS:,} steps. Hours are "
        "those that experts take, of a run that does nothing else."
    )
    columns = _columns("Run", "Expert time lost")
    del columns["trials"]
    _lost("Expert time", found, available, plan, columns)


def _body(sweep_id: str) -> None:
    _, trials = queries.sweep(sweep_id)
    with st.spinner("Reading the recorded loads", show_time=True):
        found = tables.losses(cost_queries.what_waits(trials), queries.answer(sweep_id).axes)
    available = tables.sizes(found)
    if not available:
        st.info(
            "No loads are recorded here. A trial has costs as soon as it trains. Loads on another "
            "host are read from the mirror (EVENLOAD_MIRROR_URL)."
        )
        _own(trials)
        return
    settings = CostSettings()
    plan = _planned(available, settings)
    audit_note(queries.findings(sweep_id))
    _bills(queries.answer(sweep_id), found, plan)
    note = (
        "From the loads of the last quarter of each trial, but at most its last "
        f"{cost_queries.LAST_STEPS:,} recorded steps, and the share of FLOPs that this model "
        "spends in experts. A larger model has another share."
    )
    _lost("Step time", found, available, plan, _columns("Setting", "Step time lost"), note)
    _own(trials)


def _lost(
    what: str,
    found: Sequence[SettingWaits],
    available: Sequence[int],
    plan: tables.Plan,
    columns: dict[str, Any],
    note: str = "",
) -> None:
    """Charts and a table of what the planned run loses by waiting."""
    left, right = st.columns(2)
    with left, card(f"{what} lost by waiting", EXPLANATION, "waiting"):
        plot(waits_by_setting(found, plan.ranks), "lost-by-setting", f"At {plan.ranks} ranks.")
    with right, card("By expert-parallel size", EXPLANATION, "waiting"):
        caption = "Sizes that do not divide the experts are left out."
        plot(waits_by_ranks(found, available, plan.ranks), "lost-by-ranks", caption)
    with card("Losses of the planned run", "Least first. Waiting GPUs count at full power."):
        table = tables.bill_table(found, plan)[[*columns]]
        st.dataframe(
            table, hide_index=True, placeholder="–", column_config=columns, height="content"
        )
        st.caption(for_markdown(note))


def _planned(available: Sequence[int], settings: CostSettings) -> tables.Plan:
    """The run that the user plans; every choice is part of the address."""
    with card("Planned run", "The run whose lost hours, money and energy are shown below."):
        columns = st.columns(4)
        nearest = min(available, key=lambda size: abs(size - START_RANKS))
        ranks = columns[0].select_slider(
            "Expert-parallel size", list(available), nearest, key="ranks", bind="query-params"
        )
        fields: tuple[tuple[str, str, float, float, float], ...] = (
            ("hours", "GPU hours of the run", 1.0, 1e9, START_HOURS),
            ("price", "Price of a GPU hour, $", 0.0, 1e4, START_PRICE),
            ("watts", "Watts of a GPU", 0.0, 1e4, settings.gpu_watts),
        )
        problems: list[str] = []
        hours, price, watts = (
            number_field(column, label, low, high, value, problems, key=key, bind="query-params")
            for column, (key, label, low, high, value) in zip(columns[1:], fields, strict=True)
        )
    if problems:
        raise SpecError("; ".join(problems))
    return tables.plan_of(ranks, hours, price, watts, settings)


def _bills(answer: Answer, found: Sequence[SettingWaits], plan: tables.Plan) -> None:
    """The losses of a rule that the answer names, and what it saves against no balancing."""
    waits = [loss for loss in found if plan.ranks in loss.share_R] or found
    named = {setting.label for setting in answer.named}
    label = min(
        [loss for loss in waits if loss.label in named] or waits,
        key=lambda loss: loss.share_R.get(plan.ranks, 1.0),
    ).label
    plain = [loss.label for loss in found if loss.label.split()[0] == "none"]
    own = tables.mean_share(found, [label], plan.ranks)
    control = tables.mean_share(found, plain, plan.ranks)
    bills = tables.bill(own, plan)
    saved = tables.bill(control - own, plan)
    hours = f"{saved.gpu_hours:,.1f} GPU hours"
    metrics(
        ("Setting", label, "named by the answer" if label in named else "smallest lost time"),
        ("Step time lost", number(own, ".1%"), f"by waiting for the fullest of {plan.ranks} ranks"),
        ("GPU hours lost", number(bills.gpu_hours, ",.1f", " h"), f"of {plan.gpu_hours:,.0f}"),
        ("Money lost", f"${number(bills.money, ',.0f')}", f"at ${plan.price:g} per GPU hour"),
        ("Energy lost", number(bills.kwh, ",.1f", " kWh"), f"{bills.kilograms:,.1f} kg CO₂e"),
        ("Saved against none", f"${number(saved.money, ',.0f')}", hours),
    )


def _own(trials: Sequence[TrialRecord]) -> None:
    """The cost of the sweep itself."""
    settings = CostSettings()
    cost = spent(trials, settings)
    with card("This sweep itself", "The training of all its trials so far."):
        metrics(
            ("GPU time", duration(cost.gpu_seconds), ""),
            ("Core time", duration(cost.core_seconds), "seconds times threads, without a GPU"),
            ("Energy", scaled(cost.joules / 3600, "Wh"), ""),
            ("Carbon", scaled(cost.grams, "g"), "CO₂ equivalent"),
        )
        st.caption(basis(cost, settings))


def _columns(setting: str, lost: str) -> dict[str, Any]:
    config = st.column_config
    return {
        "setting": config.TextColumn(setting, pinned=True),
        "experts": config.NumberColumn("Experts"),
        "share": config.NumberColumn(lost, format="%.1f %%"),
        "gpu_hours": config.NumberColumn("GPU hours lost", format="%.1f h"),
        "money": config.NumberColumn("Money lost", format="dollar", step=1),
        "kwh": config.NumberColumn("Energy lost", format="%.1f kWh"),
        "kilograms": config.NumberColumn("Carbon", format="%.2f kg", help="CO₂ equivalent"),
        "trials": config.NumberColumn("Trials"),
    }


main()
