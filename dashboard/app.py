"""The entry file: navigation and frame. A new page is a folder with page.py, and an entry here."""

from functools import partial
from typing import Any

import streamlit as st

from evenload.dashboard import controls
from evenload.dashboard.page_parts import ICON, STYLE, answered_address, logo, readable_errors

# Folder, which is also the address: title, icon. The address / leads to the first.
PAGES: dict[str, tuple[str, str]] = {
    "sweeps": ("Sweeps", ":material/stacks:"),
    "sweep": ("Sweep", ":material/grid_view:"),
    "run": ("Run", ":material/monitoring:"),
    "compare": ("Compare", ":material/compare_arrows:"),
    "theory": ("Theory", ":material/science:"),
    "cost": ("Cost", ":material/payments:"),
    "cluster": ("Cluster", ":material/dns:"),
    "glossary": ("Glossary", ":material/menu_book:"),
}


def main() -> None:
    st.set_page_config(page_title="evenload", page_icon=ICON, layout="wide")
    st.logo(logo(), size="large")
    st.html(STYLE)
    controls.require_login()
    pages = [
        st.Page(f"{name}/page.py", title=title, icon=icon, url_path=name)
        for name, (title, icon) in PAGES.items()
    ]
    # Streamlit knows its default page by no other address than "/", and /sweeps must be one.
    start = st.Page(
        partial(_start, pages[0]),
        title="evenload",
        url_path="start",
        default=True,
        visibility="hidden",
    )
    page = st.navigation([start, *pages], position="top")
    with readable_errors(), answered_address():
        page.run()


def _start(first: Any) -> None:
    st.switch_page(first, query_params=st.query_params.to_dict())


main()
