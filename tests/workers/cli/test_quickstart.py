"""The help of `evenload quickstart` agrees with its sweep."""

from __future__ import annotations

from importlib.resources import as_file, files

from evenload.pipeline.spec.sweep import load_sweep
from evenload.workers.cli.quickstart import quickstart


def test_the_help_counts_the_models_of_the_sweep() -> None:
    with as_file(files("evenload.workers.cli") / "quickstart.yaml") as path:
        assert len(load_sweep(path).expand()) == 16
    assert "sixteen small models" in (quickstart.__doc__ or "")
