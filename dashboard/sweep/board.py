"""The first view of a sweep: its answer on one screen."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd
import streamlit as st

from evenload.dashboard import controls, queries
from evenload.dashboard.loss_unit import NATS, loss_unit
from evenload.dashboard.page_parts import audit_note, card, plot
from evenload.dashboard.sweep.step_sizes import chart_in
from evenload.pipeline.charts.answer_board import Role, Row, interval_rows
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.step_curves import StepCurve
from evenload.pipeline.figures.wording import counted
from evenload.pipeline.states import SweepRecord, SweepState, TrialRecord
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.answer_text import chip, sentences
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import Setting, Verdict
from evenload.pipeline.sweep.step_curves import ADVISED_RULE, NOTE, step_curves

# Rows of a chart, with a head per place: more need scrolling on a screen of 900 pixels. Of more
# places one is shown at a time.
MAX_ROWS, LEAST_ROWS, MOST_PLACES = 14, 3, 3
STEP_PIXELS = 172  # least height of a chart of step sizes
BADGES = {"claim": "green", "provisional": "blue", "waiting": "gray"}
ROWS_NOTE = "Left is better. Bars: 95 % intervals, none with one seed. A click opens the run. "


def board(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> None:
    """Verdicts, the settings that matter at every place, and reasons to distrust them."""
    answer = queries.answer(sweep.sweep_id)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("  \n".join(_chips(answer)) or "No trial is complete yet.", width="stretch")
        _more_seeds(sweep, answer)
    crowded = len(answer.places) > MOST_PLACES
    *one, left, right = st.columns([2, 4, 4] if crowded else 2)
    shown = answer
    if crowded:
        names = [place.place for place in answer.places]
        at = one[0].selectbox(
            "At", names, key="at", bind="query-params", label_visibility="collapsed"
        )
        shown = answer._replace(places=tuple(p for p in answer.places if p.place == at))
    with left, st.expander("The answer in words", icon=":material/balance:"):
        st.markdown("  \n".join(map(for_markdown, sentences(answer))))
    with right:
        audit_note(queries.findings(sweep.sweep_id))
    losses, loads = rows_of(shown)
    curves = _step_curves(shown)
    columns = iter(st.columns([5, 5, 4] if curves else 2))
    if losses:
        against = "none" if all(p.control for p in shown.places if p.settings) else "the least"
        with next(columns), card(f"Loss against {against}", ROWS_NOTE, "val_bits_per_byte"):
            chart = interval_rows(losses, f"loss minus that of {against}, {answer.unit.name}")
            plot(chart, "board-loss", "Green: the margin above the least loss.")
        with next(columns), card("MaxVio", ROWS_NOTE, "max_vio"):
            chart = interval_rows(loads, "MaxVio, steady", number=".2f", is_log=True)
            plot(chart, "board-max-vio", "Red: MaxVio by chance.")
    if curves:
        height = max(STEP_PIXELS, chart.height / 2 - 21)
        with next(columns), card(f"Step size of {curves['loss'][0].rule}", NOTE, "max_vio_ratio"):
            is_advised = curves["loss"][0].rule == ADVISED_RULE
            advised = queries.advised_steps(sweep.sweep_id) if is_advised else {}
            for name, found in curves.items():
                plot(chart_in(answer.unit, found, name, advised, height), f"board-steps-{name}")
    _running(trials, answer)


def _step_curves(answer: Answer) -> dict[str, list[StepCurve]]:
    """Figure -> the curves of the rule with the most step sizes; empty without one."""
    places = {place.place for place in answer.places}
    found = {
        name: [curve for curve in step_curves(answer, name) if curve.place in places]
        for name in ("loss", "over_floor")
    }
    most = max(found["loss"], key=lambda curve: len(curve.points), default=None)
    if most is None:
        return {}
    return {name: [c for c in some if c.rule == most.rule] for name, some in found.items()}


def rows_of(answer: Answer) -> tuple[list[Row], list[Row]]:
    """The loss and the MaxVio of the settings that matter, place by place."""
    budget = max(LEAST_ROWS, MAX_ROWS // max(1, len(answer.places)) - 1)
    losses, loads = [], []
    for place in answer.places:
        shown = _that_matter(place, budget)
        if not shown:
            continue
        least = min((setting for setting, _ in shown), key=lambda s: s.mean_loss)
        reference = place.control or least
        start = least.mean_loss - reference.mean_loss
        zone = start, start + place.margin
        rest = len(place.settings) - len(shown)
        head = f"{place.place} ({rest} more)" if rest else place.place
        for setting, role in shown:
            value, half = _against(setting, reference)
            losses.append(Row(head, setting.label, role, value, half, zone, digest=setting.digest))
            floor, vio = setting.figures["max_vio_floor"], setting.imbalance
            vio_half = math.nan if vio.half is None else vio.half
            loads.append(
                Row(
                    head,
                    setting.label,
                    role,
                    vio.mean,
                    vio_half,
                    floor=floor,
                    digest=setting.digest,
                )
            )
    return losses, loads


def _against(setting: Setting, reference: Setting) -> tuple[float, float]:
    """The loss minus that of the reference, and half of its interval."""
    if setting is reference:
        return 0.0, math.nan
    if setting.against_none is not None and reference.kind == "none":
        half = setting.against_none.half
        return setting.against_none.mean, math.nan if half is None else half
    half = setting.loss.half
    return setting.mean_loss - reference.mean_loss, math.nan if half is None else half


def _that_matter(place: PlaceAnswer, budget: int) -> list[tuple[Setting, Role]]:
    """The most even setting and its ties, the least loss, others by loss, the control last."""
    rivals = [s for s in place.settings if s.verdict not in (Verdict.LEAKS, Verdict.CONTROL)]
    legal = [s for s in rivals if s.verdict is not Verdict.VIOLATES] or rivals
    best = place.evenest or min(legal, key=lambda s: s.over_floor, default=None)
    by_loss = sorted(legal, key=lambda s: s.mean_loss)
    ties = [setting for setting in by_loss if setting.label in place.even_ties]
    order = [*([best] if best else []), *by_loss[:1], *ties, *by_loss]
    kept = {setting.label: setting for setting in order}
    roles: dict[str, Role] = dict.fromkeys(place.even_ties, "tied in evenness")
    if best is not None:
        roles[best.label] = "most even so far" if place.named is None else "named"
    first = sorted([*kept.values()][: budget - bool(place.control)], key=lambda s: s.over_floor)
    found: list[tuple[Setting, Role]] = [(s, roles.get(s.label, "other")) for s in first]
    return found + ([(place.control, "control")] if place.control is not None else [])


def _chips(answer: Answer) -> Iterator[str]:
    if answer.is_provisional:
        text = f"{answer.completed} of {counted(answer.trials, 'trial')} over"
        yield f":blue-badge[provisional] {text}, so nothing is claimed yet."
    for place in answer.places:
        verdict, text = chip(answer, place)
        badge = f":{BADGES.get(verdict, 'orange')}-badge[{verdict}]"
        yield f"{badge} **{for_markdown(place.place)}**: {for_markdown(text)}."


def _more_seeds(sweep: SweepRecord, answer: Answer) -> None:
    """The seeds that would settle the answer: as a button, or as a command to copy."""
    seeds = max((place.more_seeds or 0 for place in answer.places), default=0)
    if answer.is_provisional or not seeds or sweep.state is not SweepState.FINISHED:
        return
    if not controls.are_enabled():
        st.code(f"evenload sweep extend {sweep.sweep_id} --seeds {seeds}", None, width="content")
    elif st.button(f"Train {counted(seeds, 'more seed')}", icon=":material/add:", type="primary"):
        queries.store().add_seeds(sweep.sweep_id, seeds)
        queries.forget()
        st.rerun()


def _running(trials: Sequence[TrialRecord], answer: Answer) -> None:
    """What the trials that run now have reached: the first figures of a sweep."""
    unit = loss_unit(trials, NATS)
    rows = [
        (answer.axes.name(t), 100 * t.progress.step / t.progress.steps,
         unit.factor * t.progress.loss, t.progress.max_vio)
        for t in trials
        if t.state.is_held and t.progress is not None
    ]  # fmt: skip
    if not rows:
        return
    with card("Training now", "The newest step that was reported."):
        config = st.column_config
        st.dataframe(
            pd.DataFrame(rows, columns=["Trial", "Steps", f"Training loss, {unit.name}", "MaxVio"]),
            hide_index=True,
            placeholder="–",
            height="content" if len(rows) < 6 else 230,
            column_config={
                "Steps": config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100),
                f"Training loss, {unit.name}": config.NumberColumn(format="%.3f"),
                "MaxVio": config.NumberColumn(format="%.2f"),
            },
        )
