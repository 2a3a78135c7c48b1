"""The version is written in evenload/__init__.py. Whatever repeats it must agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evenload import __version__

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("file", "pattern", "times"),
    [
        ("docker-compose.yml", r"EVENLOAD_VERSION:-([^}]+)}", 2),
        ("infra/k8s/kustomization.yaml", r"newTag: ([^}]+)}", 2),
        ("infra/README.md", r"EVENLOAD_VERSION\W+(\d\S+)", 1),
    ],
)
def test_images_have_the_version_of_the_package(file: str, pattern: str, times: int) -> None:
    repeated = re.findall(pattern, (REPOSITORY / file).read_text())
    assert repeated == [__version__] * times
