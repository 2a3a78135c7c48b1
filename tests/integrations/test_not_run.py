"""What the run does not cover is said where it is looked for."""

from __future__ import annotations

from pathlib import Path

from tests.integrations.conftest import NOT_RUN


def test_the_readme_names_what_is_not_run() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text()
    table = text.partition("| not run | reason |")[2].partition("\n\n")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    assert rows == [list(row) for row in NOT_RUN.items()]
