"""The entry file: navigation and frame. A new page is a folder with page.py, and an entry here."""

from __future__ import annotations

import streamlit as st

from evenload.dashboard.page_parts import ICON, STYLE, logo, readable_errors

# Folder, which is also the address: title, icon. The first page opens by default.
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
    pages = [
        st.Page(f"{name}/page.py", title=title, icon=icon, url_path=name, default=not position)
        for position, (name, (title, icon)) in enumerate(PAGES.items())
    ]
    page = st.navigation(pages, position="top")
    with readable_errors():
        page.run()


main()
