"""Every metric: what it says, its formula, the window it is taken over, where it comes from."""

from __future__ import annotations

import streamlit as st

from evenload.dashboard.glossary.entries import GLOSSARY, Entry


def main() -> None:
    st.title("Glossary", anchor=False)
    st.caption(
        "A assignments of an expert, L its fair share, r = A / L; E experts, K experts a token, "
        "T tokens of an optimizer step, S steps, b selection biases, γ gate scores."
    )
    wanted = st.query_params.get("metric")
    if wanted in GLOSSARY:
        _entry(wanted, GLOSSARY[wanted])
        st.subheader("All metrics", anchor=False)
    sought = st.text_input(
        "Find a metric",
        placeholder="Find a metric: load, loss, bias …",
        key="find",
        label_visibility="collapsed",
        bind="query-params",
        icon=":material/search:",
    )
    found = {name: entry for name, entry in GLOSSARY.items() if _matches(name, entry, sought or "")}
    if not found:
        st.info(f"No metric has “{sought}” in its name or meaning.")
    for name, entry in found.items():
        if name != wanted:
            _entry(name, entry)


def _matches(name: str, entry: Entry, sought: str) -> bool:
    text = f"{name} {entry.title} {entry.meaning} {entry.source}".lower()
    return all(word in text for word in sought.lower().split())


def _entry(name: str, entry: Entry) -> None:
    with st.container(border=True, key=f"metric-{name}"):
        left, right = st.columns([2, 3], vertical_alignment="center")
        left.markdown(f"**{entry.title}** &nbsp; `{name}`")
        left.markdown(entry.meaning[0].upper() + entry.meaning[1:] + ".")
        right.latex(entry.formula)
        st.caption(f"Unit: {entry.unit}. Window: {entry.window}. Source: {entry.source}.")


main()
