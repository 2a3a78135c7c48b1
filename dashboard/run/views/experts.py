"""Which text experts process, and which experts tokens choose together and in succession."""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from evenload.dashboard.loss_unit import NATS, unit_of_runs
from evenload.dashboard.page_parts import card, plot
from evenload.dashboard.record_tables import spec_of
from evenload.dashboard.run import queries as run_queries
from evenload.dashboard.run.views.layers import chosen_layer, layer_names
from evenload.pipeline.charts import specialisation as charts
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.evaluation import GroupScores, Routes, lift, specialisation
from evenload.pipeline.figures.loads import utilisation
from evenload.pipeline.records.load_series import LoadSeries, percent_of_fair
from evenload.pipeline.states import TrialRecord


def draw(trial: TrialRecord, series: LoadSeries) -> None:
    detail, problems = run_queries.eval_detail(trial)
    for problem in problems:
        st.warning(for_markdown(problem), icon=":material/broken_image:")
    if detail.groups is None and detail.routes is None and detail.by_k is None:
        if problems:
            return
        st.info(
            "The evaluation of this run recorded no groups, pairs or values of k. "
            "The `eval` section of a trial turns them on.",
            icon=":material/groups:",
        )
        return
    names = layer_names(trial)
    layer = chosen_layer(names)
    if detail.groups is not None:
        _groups(trial, detail.groups, layer, names)
    if detail.routes is not None:
        _routes(trial, detail.routes, layer, names)
    if detail.by_k is not None:
        with card("Loss by experts per token", metric="loss_by_k"):
            unit, by_k = unit_of_runs([trial], NATS), detail.by_k
            loss_N, top_k = unit.factor * by_k.loss_N, spec_of(trial).model.top_k
            plot(
                charts.loss_by_k(loss_N, by_k.k_N, top_k, unit.title),
                key="loss-by-k",
                caption=f"{detail.by_k.tokens:,} held-out tokens, the same for every k.",
            )


def _groups(trial: TrialRecord, groups: GroupScores, layer: int, names: list[str]) -> None:
    util_GE = utilisation(groups.count_GLE[:, layer], spec_of(trial).balancer.target)
    with card("Load by domain", metric="domain_load"):
        chart = charts.load_by_group(percent_of_fair(util_GE), groups.name_G)
        caption = f"Layer {names[layer]}. About as many held-out tokens of each domain."
        plot(chart, "load-by-domain", caption)
    left, right = st.columns(2)
    with left, card("Specialisation by layer", metric="specialisation"):
        value_L = np.array(
            [specialisation(groups.count_GLE[:, index]) for index in range(len(names))], np.float32
        )
        plot(charts.specialisation_by_layer(value_L, names), key="specialisation")
    with right, card("Loss by domain", metric="val_bits_per_byte"):
        unit = unit_of_runs([trial])
        loss_G = unit.factor * groups.bits_per_byte_G
        plot(charts.loss_by_group(loss_G, groups.name_G, unit.title), key="loss-by-domain")


def _routes(trial: TrialRecord, routes: Routes, layer: int, names: list[str]) -> None:
    together_EE = routes.together_LEE[layer]
    top_k = spec_of(trial).model.top_k
    tokens = int(np.diagonal(together_EE).sum()) // top_k
    left, right = st.columns(2)
    with left, card("Co-activation", metric="coactivation"):
        pair_EE = lift(together_EE, tokens)
        np.fill_diagonal(pair_EE, np.nan)
        title = f"expert of layer {names[layer]}"
        plot(
            charts.lift_map(_percent(pair_EE), title, title),
            key="co-activation",
            caption=f"{tokens:,} held-out tokens. The experts of a token are all different, so the "
            f"mean is {(top_k - 1) / top_k:.2f}× and not 1×.",
        )
    if layer + 1 < len(names):
        with right, card("Onward to the next layer", metric="transition"):
            onward_EE = routes.onward_LEE[layer]
            chart = charts.lift_map(
                _percent(_onward_lift(onward_EE)), title, f"expert of layer {names[layer + 1]}"
            )
            plot(chart, "onward", f"Tokens going from layer {names[layer]} to {names[layer + 1]}.")


def _onward_lift(onward_EE: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts over those of independent choices with the same loads; NaN for idle experts."""
    expected_EE = np.outer(onward_EE.sum(axis=1), onward_EE.sum(axis=0)) / onward_EE.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected_EE > 0, onward_EE / expected_EE, np.nan)


def _percent(lift_EE: NDArray[np.float64]) -> NDArray[np.int16]:
    """Whole percent in 16 bits, so that 256 x 256 experts take less than 300 KB; -1: unknown."""
    percent_EE = np.clip(np.rint(100 * np.nan_to_num(lift_EE)), 0, 32_000)
    return np.where(np.isnan(lift_EE), -1, percent_EE).astype(np.int16)
