"""What of the code makes a trial another trial."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from evenload.workers.training import identity


@pytest.mark.parametrize(
    ("file", "is_core"),
    [
        ("model/moe.py", True),
        ("data/corpus.py", True),
        ("selection.py", True),
        ("balancing/base.py", True),
        ("balancing/sign.py", True),
        ("balancing/ema.py", False),  # another rule
        ("model/export/weights.py", False),  # runs after the trial
        ("cli/train.py", False),
    ],
)
def test_the_core_version_covers_what_computes_a_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, is_core: bool
) -> None:
    workers = tmp_path / "workers"
    shutil.copytree(identity.WORKERS, workers, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "WORKERS", workers)
    before = identity.core_version.__wrapped__("sign")
    with (workers / file).open("a") as source:
        source.write('# a comment\n"""A text."""\n')
    assert identity.core_version.__wrapped__("sign") == before
    with (workers / file).open("a") as source:
        source.write("another = 1\n")
    assert (identity.core_version.__wrapped__("sign") != before) == is_core


def test_docstrings_comments_and_layout_compute_nothing() -> None:
    plain = "def f(x):\n    return x + 1\n"
    told = 'def f(x):  # why\n    """Adds."""\n    return (\n        x + 1\n    )\n'
    assert identity.computed_by(plain) == identity.computed_by(told)
    assert identity.computed_by(plain) != identity.computed_by(plain.replace("1", "2"))
