"""The glossary: meaning, formula, window and source of every metric."""

import streamlit as st

from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.metrics import METRICS, Metric


def main() -> None:
    st.title("Glossary", anchor=False)
    st.caption(
        "A assignments of an expert, L its fair share, r = A / L; E experts, K experts per token, "
        "T tokens of an optimizer step, S steps, b selection biases, γ gate scores."
    )
    chosen = st.query_params.get("metric")
    if chosen in METRICS:
        _card(METRICS[chosen])
        st.subheader("All metrics", anchor=False)
    sought = st.text_input(
        "Find a metric",
        placeholder="Find a metric: load, loss, bias …",
        key="find",
        label_visibility="collapsed",
        bind="query-params",
        icon=":material/search:",
    )
    found = [metric for metric in METRICS.values() if _matches(metric, sought or "")]
    if not found:
        st.info(f"No metric has “{for_markdown(sought)}” in its name or meaning.")
    for metric in found:
        if metric.name != chosen:
            _card(metric)


def _matches(metric: Metric, sought: str) -> bool:
    text = f"{metric.name} {metric.title} {metric.meaning} {metric.source}".lower()
    return all(word in text for word in sought.lower().split())


def _card(metric: Metric) -> None:
    better = f" Better: {metric.better}." if metric.better else ""
    with st.container(border=True, key=f"metric-{metric.name}"):
        left, right = st.columns([2, 3], vertical_alignment="center")
        left.markdown(f"**{metric.title}** &nbsp; `{metric.name}`")
        left.markdown(metric.meaning[0].upper() + metric.meaning[1:] + ".")
        right.latex(metric.formula)
        st.caption(
            f"Unit: {metric.unit}.{better} Window: {metric.window}. Source: {metric.source}."
        )


main()
