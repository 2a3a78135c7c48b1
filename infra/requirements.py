"""Prints the dependencies in pyproject.toml, one per line: requirements.py EXTRA ..."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]


def requirements(extras: Iterable[str]) -> Iterator[str]:
    """Dependencies of the extras, including those of extras named as `evenload[...]`."""
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(r"evenload\[(.*)\]", line)
            yield from requirements(own[1].split(",")) if own else [line]


if __name__ == "__main__":
    print("\n".join([*PROJECT["dependencies"], *requirements(sys.argv[1:])]))
