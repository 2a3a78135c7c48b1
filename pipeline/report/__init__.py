"""The answer of a sweep as one page: evidence in, HTML and markdown out; no network, no script.

evidence.py -> sections/*.py -> page.Page -> html_page.py, markdown_page.py
"""
