from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records import mlflow_runs
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.removal import remove_sweep

BASE = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home", mirror_url=(tmp_path / "mirror").as_uri())


@pytest.fixture
def store(settings: Settings) -> Iterator[SweepStore]:
    settings.root.mkdir()
    store = SweepStore(settings.store_url)
    store.migrate()
    yield store
    store.close()


def test_files_runs_and_rows_are_removed_except_those_of_shared_trials(
    settings: Settings, store: SweepStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    removed: list[str] = []

    def remove_runs(_: Settings, run_ids: list[str]) -> None:
        removed.extend(run_ids)

    monkeypatch.setattr(mlflow_runs, "remove_runs", remove_runs)
    spec = SweepSpec(name="first", base=BASE, axes={"train.seed": [0, 1]})
    shared, own = (("shared", spec.expand()[0]), ("own", spec.expand()[1]))
    sweep_id = store.add_sweep(spec, [shared, own])
    store.add_sweep(SweepSpec(name="second", base=BASE, axes={"train.seed": [0]}), [shared])
    folders = [settings.trial_dir(digest) for digest in ("shared", "own")]
    folders += [tmp_path / "mirror" / "trials" / digest for digest in ("shared", "own")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "file").touch()
    store.set_parent_run(sweep_id, "parent")
    for digest in ("shared", "own"):
        store.set_run_id(digest, f"run of {digest}")

    with pytest.raises(SpecError, match="is active; pause or cancel it"):
        remove_sweep(store, settings, sweep_id)
    assert all(folder.exists() for folder in folders)
    store.cancel(sweep_id)
    assert remove_sweep(store, settings, sweep_id) == ["own"]
    assert removed == ["parent", "run of own"]
    assert [folder.exists() for folder in folders] == [True, False, True, False]
    assert [trial.digest for trial in store.trials(store.sweeps()[0].sweep_id)] == ["shared"]
