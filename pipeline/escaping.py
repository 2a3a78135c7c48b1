"""Makes text that a user chose harmless for what shows it: one function per kind of sink.

Names of files, values of specs, notes and errors may hold anything: escape sequences of a terminal,
markup, formulas of a spreadsheet. HTML is escaped by the templates, Prometheus by its library.
"""

import re
from typing import Any

LONGEST = 2000  # characters that an agent gets of a text
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, *_DIRECTIONS)
_SHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in _CONTROLS if chr(code) not in "\n\t"}
_CODE = re.compile(r"(`[^`\n]+`)")
_MARKUP = re.compile(r"([\\`\[\]*$]|^[ \t]*[#>+=-]+(?=\s|$)|:(?=[a-z]))", re.MULTILINE)
_FORMULA = re.compile(r"\s*[=+\-@|%]")


def for_terminal(text: str) -> str:
    """Text in which no character steers a terminal or turns the direction of writing."""
    return text.translate(_SHOWN)


def for_log(text: str) -> str:
    """Such text on one line, so that it cannot look like another record."""
    return for_terminal(text).replace("\n", "\\n")


def for_agent(text: str) -> str:
    """Text on one line, not too long, in which everything that cannot be seen is written out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}... (cut)"


def for_markdown(text: str) -> str:
    """Text without images, links, HTML and Streamlit's directives. Code in backticks stays."""
    plain = for_terminal(text)
    # Runs of several backticks pair in other ways, so then no code is recognised.
    parts = [plain] if "``" in plain else _CODE.split(plain)
    return "".join(part if place % 2 else _escaped(part) for place, part in enumerate(parts))


def for_chat(text: str) -> str:
    """Text in which a chat finds no mention and no link, by the rules of Slack's webhooks."""
    plain = for_terminal(text)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def for_spreadsheet(cell: Any) -> Any:
    """A cell that no spreadsheet takes for a formula or for two rows. Numbers stay as they are."""
    if not isinstance(cell, str):
        return cell
    plain = for_terminal(cell)
    return f"'{plain}" if _FORMULA.match(plain) and not _is_number(plain) else plain


def _escaped(text: str) -> str:
    marked = _MARKUP.sub(lambda found: re.sub(r"(\S)", r"\\\1", found[0]), text)
    return marked.replace("<", "&lt;")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
