"""The line of figures at the top of a page."""

from __future__ import annotations

import re

from streamlit.testing.v1 import AppTest

FIGURE = re.compile(r":gray\[(.+?)\] \*\*(.+?)\*\*")


def figures(page: AppTest) -> dict[str, str]:
    """Label -> value of all figures in such lines."""
    return {
        label: value.replace("\\$", "$")
        for markdown in page.markdown
        for label, value in FIGURE.findall(markdown.value)
    }
