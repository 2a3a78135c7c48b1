"""The views of a sweep's page: front and curves."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from evenload.dashboard import queries
from evenload.dashboard.loss_unit import NATS, loss_unit
from evenload.dashboard.page_parts import card, metric_columns, plot, switch
from evenload.dashboard.sweep import tables
from evenload.pipeline.charts.front import pareto_front, tune_against_confirm
from evenload.pipeline.charts.learning_curves import AXES, Unit, learning_curves
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.loss_unit import LossUnit
from evenload.pipeline.figures.metrics import METRICS, columns
from evenload.pipeline.states import SweepRecord, TrialRecord
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.answer_text import method, place_note
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS

INTERVALS = "95 % intervals over seeds."
CURVES: dict[str, tuple[tables.Shown, str]] = {
    "Held-out loss": ("val_loss", ""),
    "MaxVio": ("max_vio", "MaxVio (max load / fair share − 1)"),
}


def front_section(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """Loss against imbalance, search against confirmation, and every setting with its verdict."""
    answer = queries.answer(sweep.sweep_id)
    places = {place.place: place for place in answer.places}
    with card(
        "Loss against imbalance",
        "A setting is better further down and further left. Bars are 95 % intervals over seeds.",
    ):
        shown = next(iter(places), "")
        if len(places) > 1:
            shown = st.selectbox("At", list(places), key="at", bind="query-params")
        caption = "Means over seeds. A setting far away is named below the axis."
        points = tables.front_points(answer, places[shown]) if shown else []
        plot(pareto_front(points, loss=answer.unit.title), "front", caption)
    _confirmed(answer)
    with card("Settings", method(answer)):
        st.caption("  \n".join(for_markdown(place_note(place)) for place in answer.places))
        st.dataframe(
            tables.setting_table(answer),
            hide_index=True,
            column_config=_setting_columns(answer.unit),
            placeholder="–",
            height="content" if len(answer.settings) < 20 else 600,
        )


def curves_section(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """Learning curves, and why some trials did not train to their end."""
    points, axes = queries.curves(sweep.sweep_id), queries.answer(sweep.sweep_id).axes
    with card("Learning curves", "Evaluated during training, on a sample of the held-out text."):
        left, right = st.columns([1, 1])
        shown = switch("Figure", list(CURVES), "figure", place=left)
        over = switch("Over", list(AXES), "over", place=right)
        x: Unit = "tokens" if over == "tokens" else "steps"
        name, title = CURVES[shown]
        curves = tables.learning_curves(trials, points, x, name, axes)
        if name == "val_loss":
            unit = loss_unit(trials, NATS)
            curves = [curve._replace(y_P=unit.factor * curve.y_P) for curve in curves]
            title = unit.title
        if not curves:
            st.info(
                "No trial has a learning curve yet. `eval: {every_steps: 50}` in the base of a "
                "sweep turns them on. The page of a run has its training loss."
            )
        else:
            caption = "Faint with a cross: stopped early. Point at the cross to read the reason."
            plot(learning_curves(curves, x, title), "learning-curves", caption)
    ended = tables.ended_table(trials, axes)
    if not ended.empty:
        with card("Not trained to the end", "Stopped by a policy or a user, cancelled, or failed."):
            st.dataframe(
                ended.drop(columns="digest"),
                hide_index=True,
                placeholder="–",
                column_config={"Why": st.column_config.TextColumn(width="large")},
                height="content" if len(ended) < 20 else 600,
            )


def _confirmed(answer: Answer) -> None:
    pairs = tables.confirmations(answer, "loss")
    if not pairs:
        return
    left, right = st.columns(2)
    explanation = "The best of many tries looks better than it is; fresh seeds show by how much."
    with left, card("Loss, search against fresh seeds", explanation):
        plot(tune_against_confirm(pairs, answer.unit.title), "confirm-loss", INTERVALS)
    with right, card("MaxVio, search against fresh seeds", explanation):
        pairs = tables.confirmations(answer, "imbalance")
        title = f"{METRICS[IMBALANCE].title}, {METRICS[IMBALANCE].unit}"
        plot(tune_against_confirm(pairs, title), "confirm-max-vio", INTERVALS)


def _setting_columns(unit: LossUnit) -> dict[str, Any]:
    config = st.column_config
    return {
        "place": config.TextColumn("At", pinned=True),
        "setting": config.TextColumn("Setting", pinned=True),
        "verdict": config.TextColumn("Verdict", width="medium"),
        **metric_columns(columns(), unit),
        f"{LOSS}_half": config.NumberColumn("±", format="%.4f"),
        f"{IMBALANCE}_half": config.NumberColumn("±", format="%.3f"),
        "above_best": config.NumberColumn(
            "Above the best", format="%.4f", help="at most so much above the least of the others"
        ),
        "against_none": config.NumberColumn(
            "Against none", format="%+.4f", help="difference in loss, with seeds as blocks"
        ),
        "against_none_half": config.NumberColumn("±", format="%.4f", help="simultaneous 95 %"),
        "over_floor": config.NumberColumn("Over floor", format="%.1f", help="MaxVio over floor"),
        "seeds": config.NumberColumn("Seeds"),
    }
