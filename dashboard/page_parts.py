"""Parts that pages share: choices in the address, refreshing, cards, tables and errors."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import altair as alt
import pandas as pd
import streamlit as st

from evenload.dashboard.exports import FORMATS, chart_table
from evenload.dashboard.wording import Wording
from evenload.pipeline.charts import style
from evenload.pipeline.errors import SpecError
from evenload.pipeline.escaping import for_markdown
from evenload.pipeline.figures.loss_unit import LossUnit
from evenload.pipeline.figures.metrics import METRICS, Metric
from evenload.pipeline.figures.wording import counted
from evenload.pipeline.sweep.audit import Finding
from evenload.pipeline.sweep.setting import LOSS

KEPT_SWEEP = "kept-sweep"  # in the session: the sweep that was looked at last
KEPT_RUNS = "kept-runs"  # and the runs that were selected in it
LAST_ADDRESS = "last-address"  # its parameters when the page was drawn last
BRUSHES = ("along", "region")  # of linked views
Number = TypeVar("Number", int, float)
REFRESH_SECONDS = 5.0
IDLE_SECONDS = 15.0  # between looks at something that is over, but may go on

_BARS = "".join(
    f'<rect x="{x}" y="9" width="5" height="15" rx="1.5" fill="{fill}"/>'
    for x, fill in zip((2, 10, 18, 26), ("#2b6cb0", "#2b6cb0", "#2b6cb0", "#d9730d"), strict=True)
)
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} 32" width="{0}" height="32">{1}</svg>'
)
ICON = _SVG.format(33, _BARS)
_NAME = (
    '<text x="40" y="23" font-family="Segoe UI, Helvetica, Arial, sans-serif" '
    'font-size="20" font-weight="600" fill="{}" textLength="92">evenload</text>'
)
STYLE = """<style>
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 1rem; }
/* Out of the tab order: the menu Export has the same. */
.stElementContainer:not(:hover) [data-testid="stElementToolbar"] { visibility: hidden; }
[class*="st-key-export-"] button { min-height: 1.6rem; padding: 0 0.4rem; }
@media (max-width: 480px) { [data-testid="stButtonGroup"] button { padding: 0 0.55rem; } }
</style>"""


@contextmanager
def readable_errors() -> Iterator[None]:
    """Shows errors that a user can repair as a warning. Other errors are bugs and are raised."""
    try:
        yield
    except SpecError as error:
        st.warning(for_markdown(str(error)), icon=":material/info:")


@contextmanager
def answered_address() -> Iterator[None]:
    """Says what the address asks for and the page does not have.

    Streamlit takes a value that a widget cannot have out of the address without a word. What the
    page before has left there is not said.
    """
    place, asked = st.empty(), st.query_params.to_dict()
    left = st.session_state.get(LAST_ADDRESS, {})
    st.session_state[LAST_ADDRESS] = asked  # in case that the page stops
    yield
    st.session_state[LAST_ADDRESS] = st.query_params.to_dict()
    unknown = [
        f"{key}={value}"
        for key, value in asked.items()
        if left.get(key) != value and not _is_shown(key, value)
    ]
    if unknown:
        place.error(
            f"The address asks for {for_markdown(', '.join(unknown))}, which is not known here. "
            "The page shows what is chosen below."
        )


def _is_shown(key: str, asked: str) -> bool:
    """Whether a widget has the value that the address asks for; without a widget: it stays."""
    if key not in st.session_state:
        return st.query_params.get(key) == asked
    value = st.session_state[key]
    try:
        return asked in (str(value), str(value).lower()) or float(asked) == float(value)
    except (TypeError, ValueError):
        return False


def chosen(label: str, options: Sequence[str], parameter: str, shown: Callable[[str], str]) -> str:
    """A select box whose choice is also part of the address: `?parameter=choice`.

    Without one in the address the last choice is taken, so that it stays from page to page. The
    page ends with a message if the address names something else than these options.
    """
    kept, named = f"kept-{parameter}", st.query_params.get(parameter)
    start = st.session_state.get(kept) if named is None else named
    index = options.index(start) if start in options else 0 if named is None else None
    choice = st.selectbox(
        label, options, index=index, format_func=shown, label_visibility="collapsed"
    )
    if choice is None:
        st.error(
            f"{label} {for_markdown(repr(named))} is not known here. Choose one from the list."
        )
        st.stop()
    if choice != named:
        st.query_params[parameter] = choice
    st.session_state[kept] = choice
    return choice


def chosen_view(names: Iterable[str]) -> str:
    """A row of buttons that choose a view of the page; the first one by default."""
    return switch("View", list(names), "view", label_visibility="collapsed")


def switch(
    label: str, options: Sequence[str], key: str, start: int = 0, place: Any = st, **more: Any
) -> str:
    """Buttons of which one is chosen, as the address says, or the one at `start`."""
    picked = place.segmented_control(
        label, options, default=options[start], key=key, bind="query-params", required=True, **more
    )
    return str(picked) if picked in options else options[start]


def clicked_row(
    table: pd.DataFrame, key: str, columns: dict[str, Any], **options: Any
) -> int | None:
    """A table whose cells can be clicked; returns the number of the clicked row."""
    picked = st.dataframe(
        table,
        hide_index=True,
        key=key,
        on_select="rerun",
        selection_mode="single-cell",
        column_config=columns,
        placeholder="–",
        **options,
    )
    return int(picked.selection.cells[0][0]) if picked.selection.cells else None


def number_field(
    place: Any,
    label: str,
    low: Number,
    high: Number,
    value: Number,
    problems: list[str],
    **options: Any,
) -> Number:
    """A field for a number. One that is out of range is added to `problems`.

    The field has no limits of its own: the browser would keep a number beyond them, in red, and the
    page would go on with the old one.
    """
    typed: Number = place.number_input(label, value=value, **options)
    if not low <= typed <= high:
        problems.append(f"{label}: {typed:,} is not between {low:,} and {high:,}")
    return typed


def table_height(table: pd.DataFrame, most_rows: int) -> Any:
    """The height of a table that scrolls if it has more rows."""
    return "content" if len(table) <= most_rows else 36 * most_rows


def audit_note(findings: Sequence[Finding]) -> None:
    """The findings of the audit behind one line; nothing without findings."""
    if not findings:
        return
    names = ", ".join(dict.fromkeys(finding.name for finding in findings))
    with st.expander(
        f"Audit, {counted(len(findings), 'finding')}: {names}", icon=":material/fact_check:"
    ):
        for finding in findings:
            st.text(f"{finding.name}: {finding.evidence}\n{finding.remedy}")


def live(body: Callable[[], None], is_over: Callable[[], bool]) -> None:
    """Draws `body` and redraws it: every few seconds, or less often while `is_over`."""
    was_over = is_over()

    @st.fragment(run_every=IDLE_SECONDS if was_over else REFRESH_SECONDS)
    def drawn() -> None:
        with readable_errors():
            body()
            if is_over() != was_over:
                st.rerun()

    drawn()


def heading(title: str, state: Wording) -> None:
    """The title of the page with a state."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.title(for_markdown(title), width="content", anchor=False)
        st.badge(state.text, icon=state.icon, color=state.colour)


@contextmanager
def card(title: str, explanation: str = "", metric: str | None = None) -> Iterator[None]:
    """A box whose title has the tooltip `explanation` and a link to the definition of `metric`."""
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
            st.markdown(f"**{for_markdown(title)}**", help=explanation or None)
            if metric:
                st.page_link(
                    "glossary/page.py",
                    label="Definition",
                    icon=":material/menu_book:",
                    help=f"{METRICS[metric].title}: {METRICS[metric].meaning}",
                    query_params={"metric": metric},
                )
        yield


def plot(chart: style.Chart, key: str, caption: str = "") -> dict[str, Any]:
    """A chart at full width in the page's theme, with a caption and an export menu below it.

    A chart is not redrawn if its numbers are the same. Its toolbar saves it as a picture. A click
    on a mark that names a run opens it. A chosen range of x is part of the address, so that it
    outlives new numbers.

    Returns:  what is selected in it, by the names of the selections
    """
    hoisted: Any = () if chart.params is alt.Undefined else chart.params
    parameters = [one.name for one in hoisted]
    selections = sorted({style.OPEN, style.OPEN_LINE, style.ZOOM, *BRUSHES} & {*parameters})
    spans = _zoomed_spans(key) if style.ZOOM in selections else []
    drawn = style.themed(chart, theme(), usermeta={"embedOptions": {"downloadFileName": key}})
    if spans:
        drawn = style.zoomed(drawn, spans)
    # Its description is its text alternative.
    options: dict[str, Any] = {"theme": None, "width": "stretch"}
    if selections:
        options |= {"on_select": "rerun", "selection_mode": selections}
    chosen = st.altair_chart(drawn, key=_zoom_key(key, spans), **options)
    found = dict(chosen.selection) if selections else {}
    if picked := found.get(style.OPEN) or found.get(style.OPEN_LINE):
        st.switch_page("run/page.py", query_params={"run": picked[0]["digest"]})
    if spans:
        shown = " and ".join(f"{low:,.6g} to {high:,.6g}" for low, high in spans)
        name = f"Show all, not only {shown}"
        st.button(
            name, icon=":material/zoom_out:", key=f"all-{key}", on_click=_show_all, args=[key]
        )
    below(caption, partial(chart_table, chart), key)
    return found


def _zoom_key(key: str, spans: Sequence[style.Span]) -> str:
    return "-".join([f"chart-{key}", *(f"{end:.6g}" for span in spans for end in span)])


def _zoomed_spans(key: str) -> list[style.Span]:
    """The ranges of x and y in the address, after those that were just dragged are put there."""
    spans: list[style.Span] = []
    try:
        for span in filter(None, st.query_params.get(f"zoom-{key}", "").split(",")):
            low, high = (float(end) for end in span.split(":"))
            if not -math.inf < low < high < math.inf:
                raise ValueError
            spans.append((low, high))
    except ValueError:
        spans = []
        del st.query_params[f"zoom-{key}"]
    dragged = st.session_state.get(_zoom_key(key, spans), {}).get("selection", {}).get(style.ZOOM)
    if dragged:
        texts = [[f"{end:.6g}" for end in sorted(ends)] for ends in dragged.values()]
        st.query_params[f"zoom-{key}"] = ",".join(map(":".join, texts))
        spans = [(float(low), float(high)) for low, high in texts]
    return spans


def _show_all(key: str) -> None:
    del st.query_params[f"zoom-{key}"]


def below(caption: str, table: Callable[[], pd.DataFrame], key: str) -> None:
    """A caption and an export menu."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", wrap=False):
        st.caption(for_markdown(caption), width="stretch")
        export(table, key)


def export(table: Callable[[], pd.DataFrame], name: str) -> None:
    """A menu that saves a table, which is computed when the user chooses a format."""
    with st.popover("Export", icon=":material/download:", type="tertiary", key=f"export-{name}"):
        for suffix, file_format in FORMATS.items():
            st.download_button(
                file_format.title,
                data=partial(file_format.written, table),
                file_name=f"{name}.{suffix}",
                mime=file_format.mime,
                key=f"{suffix}-{name}",
                on_click="ignore",
                width="stretch",
            )
        st.caption("PNG and SVG: use the toolbar of the chart.")


def logo() -> str:
    """The logo with the name, in the text colour of the page."""
    return _SVG.format(140, _BARS + _NAME.format(style.exchanged(style.INK, theme())))


def theme() -> style.Theme:
    """The theme in which the viewer sees the page."""
    return "dark" if st.context.theme.type == "dark" else "light"


def metrics(*figures: tuple[str, str, str]) -> None:
    """A line of figures, each a (label, value, explanation)."""
    shown = (f":gray[{label}] **{for_markdown(value)}**" for label, value, _ in figures)
    told = (f"{label}: {explanation}" for label, _, explanation in figures if explanation)
    st.markdown(" &ensp; ".join(shown), help="  \n".join(told) or None)


def metric_columns(shown: Iterable[Metric], loss: LossUnit | None = None) -> dict[str, Any]:
    """Titles, formats and tooltips for tables of figures with shares in percent.

    Args:     loss: the unit of held-out losses; None: bits per byte
    """
    named = {metric.name: _metric_column(metric) for metric in shown}
    if loss is not None and LOSS in named:
        named[LOSS] = st.column_config.NumberColumn(
            loss.head, format="%.3f", help=METRICS[LOSS].meaning
        )
    return named


def _metric_column(metric: Metric) -> Any:
    title, meaning = metric.head or metric.title, f"{metric.meaning}; {metric.unit}"
    if metric.is_share:
        pattern = f"%{metric.format.removesuffix('%')}f %%"
        return st.column_config.NumberColumn(title, format=pattern, help=meaning)
    if metric.format == ",.0f":
        return st.column_config.NumberColumn(title, format="localized", step=1, help=meaning)
    pattern = "%" + metric.format.replace(",", "")
    return st.column_config.NumberColumn(title, format=pattern, help=meaning)
