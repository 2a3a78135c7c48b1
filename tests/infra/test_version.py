"""Versions that are written in several places agree: evenload's own, and that of torch."""

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


def test_script_and_images_install_the_same_torch() -> None:
    texts = [(REPOSITORY / "infra" / file).read_text() for file in ("install.sh", "Dockerfile")]
    found = [set(re.findall(r"torch(?:==|_version=)(\d[\d.]*\d)", text)) for text in texts]
    assert len(found[0]) == 1
    assert found[0] == found[1]
