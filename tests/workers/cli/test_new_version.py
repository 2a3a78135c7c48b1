"""A sweep whose data or code is not what it was when its trials were listed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli.session import initial_trials, open_store
from evenload.workers.cli.sweep import _stored_or_load
from evenload.workers.cli.sweep_runner import stored_sweep
from evenload.workers.training import identity
from tests.small_model import SMALL_MODEL


class Home:
    """A sweep over two text files."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(home=folder / "home")
        self.store: SweepStore = open_store(self.settings, create=True)
        self.folder = folder
        for name in "abcdef":
            self.write(name)
        base: dict[str, Any] = {
            "model": SMALL_MODEL | {"vocab_size": 256},
            "data": {"kind": "files", "glob": str(folder / "*.txt"), "validation_share": 0.5},
            "train": {"steps": 4, "batch_sequences": 2, "seq_len": 32},
            "balancer": {"kind": "none"},
        }
        self.spec = SweepSpec(name="small", base=base, axes={"train.seed": [0, 1]})

    def write(self, name: str, begin: str = "") -> None:
        words = " ".join(f"{name}{number}" for number in range(300))
        (self.folder / f"{name}.txt").write_text(f"{begin} {words}")

    def run(self, new_version: bool = False) -> str:
        trials = initial_trials(self.spec, self.settings)
        return stored_sweep(self.store, self.settings, self.spec, trials, new_version)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_changed_file_is_named_with_both_versions_and_needs_a_flag(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_id = home.run()
    before = {trial.digest for trial in home.store.trials(sweep_id)}
    home.write("a", "changed")
    with pytest.raises(SpecError, match=r"a\.txt: [0-9a-f]{12} -> [0-9a-f]{12}; .*--new-version"):
        home.run()
    assert {trial.digest for trial in home.store.trials(sweep_id)} == before

    assert home.run(new_version=True) == sweep_id
    told = capsys.readouterr().err
    assert "has 2 trials on other data" in told
    assert "b.txt" not in told
    assert not before & {trial.digest for trial in home.store.trials(sweep_id)}
    assert {trial.digest for trial in home.store.trials(f"{sweep_id}.v1")} == before
    assert "a.txt" in str(home.store.sweep(f"{sweep_id}.v1").note)
    assert home.run() == sweep_id, "the same again changes nothing"


def test_a_changed_part_of_the_core_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.run()
    identity.core_version.cache_clear()
    computed_by = identity.computed_by
    monkeypatch.setattr(
        identity,
        "computed_by",
        lambda source: computed_by(source) + ("x = 1" if "class Router" in source else ""),
    )
    try:
        with pytest.raises(SpecError, match=r"workers/model/router\.py: [0-9a-f]{12} -> "):
            home.run()
    finally:
        identity.core_version.cache_clear()


def test_a_new_torch_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.run()
    identity.core_version.cache_clear()
    monkeypatch.setattr("torch.__version__", "9.9.9")
    try:
        with pytest.raises(SpecError, match=r"torch: [0-9.]+ -> 9\.9\.9"):
            home.run()
    finally:
        identity.core_version.cache_clear()


def test_what_another_home_recorded_is_named_by_its_versions(home: Home) -> None:
    home.run()
    for kept in (home.settings.root / "versions").iterdir():
        os.unlink(kept)
    home.write("a", "changed")
    with pytest.raises(SpecError, match=r'data \{.*"kind": "files".*: [0-9a-f]+ -> [0-9a-f]+'):
        home.run()


def test_rows_without_text_are_counted_and_said(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": None}, {"text": ""}, *({"text": f"row {n} " * 50} for n in range(9))]
    (home.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = home.spec.base["data"] | {"glob": str(home.folder / "*.jsonl")}
    home.spec = home.spec.model_copy(update={"base": home.spec.base | {"data": data}})
    home.run()
    assert "data: 2 rows or files without text (null or empty) left out" in capsys.readouterr().err


def test_a_stored_spec_that_cannot_be_read_is_an_error_with_a_remedy(home: Home) -> None:
    sweep_id = home.run()
    with home.store._transaction(writes=True) as connection:
        connection.execute(text("UPDATE sweep SET spec = '{}'"))
    with pytest.raises(SpecError, match=r"cannot read .name: required.*; run its YAML file"):
        _stored_or_load(sweep_id, home.settings)
    with home.store._transaction(writes=True) as connection:
        connection.execute(text("UPDATE trial SET result = '[1]'"))
    with pytest.raises(SpecError, match="is damaged: a mapping is expected"):
        home.store.trials(sweep_id)
