"""What all pages share: choosing from the address, refreshing while it lasts, cards, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from dashboard.wording import Wording
from pipeline.errors import SpecError

REFRESH_SECONDS = 5.0

_BARS = "".join(
    f'<rect x="{x}" y="9" width="5" height="15" rx="1.5" fill="{fill}"/>'
    for x, fill in zip((2, 10, 18, 26), ("#2b6cb0", "#2b6cb0", "#2b6cb0", "#d9730d"), strict=True)
)
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} 32" width="{0}" height="32">{1}</svg>'
)
ICON = _SVG.format(33, _BARS)
LOGO = _SVG.format(
    140,
    _BARS + '<text x="40" y="23" font-family="Segoe UI, Helvetica, Arial, sans-serif" '
    'font-size="20" font-weight="600" fill="#1f2933" textLength="92">evenload</text>',
)
STYLE = """<style>
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 3rem; }
</style>"""


@contextmanager
def readable_errors() -> Iterator[None]:
    """What a user can mend is said in words; anything else is a fault and keeps its trace."""
    try:
        yield
    except SpecError as error:
        st.warning(str(error), icon=":material/info:")


def chosen(label: str, options: Sequence[str], parameter: str, shown: Callable[[str], str]) -> str:
    """A select box whose choice is `?parameter=` of the address; the first option without one."""
    wanted = st.query_params.get(parameter)
    index = options.index(wanted) if wanted in options else 0
    choice = st.selectbox(
        label, options, index=index, format_func=shown, label_visibility="collapsed"
    )
    if choice != wanted:
        st.query_params[parameter] = choice
    return choice


def live(body: Callable[[], None], is_over: Callable[[], bool]) -> None:
    """Draws `body`, and again every few seconds until `is_over` says that nothing changes now."""
    refreshes = not is_over()

    @st.fragment(run_every=REFRESH_SECONDS if refreshes else None)
    def drawn() -> None:
        with readable_errors():
            body()
            if refreshes and is_over():
                st.rerun()

    drawn()


def heading(title: str, state: Wording) -> None:
    """The page's title with the state of what it shows."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(title, width="content", anchor=False)
        st.badge(state.text, icon=state.icon, color=state.colour)


@contextmanager
def card(title: str, explanation: str) -> Iterator[None]:
    """A bordered box; the explanation is the tooltip of its title."""
    with st.container(border=True):
        st.markdown(f"**{title}**", help=explanation)
        yield


def plot(chart: go.Figure, key: str) -> None:
    """A chart in its card, at full width, redrawn in place under a stable key."""
    config: dict[str, Any] = {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d"],
    }
    st.plotly_chart(chart, key=key, theme=None, config=config)


def metrics(*figures: tuple[str, str, str]) -> None:
    """A row of (label, value, tooltip)."""
    for column, (label, value, explanation) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(label, value, help=explanation or None, border=True)
