from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records import mlflow_runs
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.removal import find_orphans, remove_orphans, remove_sweep

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


def test_what_no_sweep_needs_is_listed_and_removed_but_nothing_else(
    settings: Settings, store: SweepStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(mlflow_runs, "remove_runs", lambda _, run_ids: removed.extend(run_ids))
    names = ("listed", "claimed", "parent", "unlisted")
    spec = SweepSpec(name="first", base=BASE, axes={"train.seed": list(range(4))})
    child = spec.expand()[0].model_copy(update={"extends": "parent"})
    first = store.add_sweep(
        spec, [("listed", child), *zip(names[1:], spec.expand()[1:], strict=True)]
    )
    store.claim("claimed", WorkKind.TRAIN, "worker", 20.0)
    with store._transaction(writes=True) as connection:
        keep = text("DELETE FROM sweep_trial WHERE digest <> 'listed'")
        connection.execute(keep)
    store.set_run_id("unlisted", "run of unlisted")
    mirror = tmp_path / "mirror" / "trials"
    for folder in (
        *map(settings.trial_dir, (*names, "stray")),
        mirror / "stray",
        mirror / "listed",
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_text("12345")

    found = find_orphans(store, settings)
    assert [(o.digest, o.bytes, o.is_mirrored, o.run_id) for o in found] == [
        ("unlisted", 5, False, "run of unlisted"),
        ("stray", 5, True, None),
    ]
    assert settings.trial_dir("unlisted").exists(), "finding removes nothing"
    # A sweep takes the trial up between the listing and the removal.
    again = SweepSpec(name="again", base=BASE, axes={"train.seed": [3]})
    store.add_sweep(again, [("unlisted", again.expand()[0])])
    assert [orphan.digest for orphan in remove_orphans(store, settings, found)] == ["stray"]
    store.cancel(again.sweep_id())
    with store._transaction(writes=True) as connection:
        connection.execute(keep)
    assert [orphan.digest for orphan in remove_orphans(store, settings, found)][:1] == ["unlisted"]
    assert removed == ["run of unlisted"]
    left = {path.name for path in (settings.root / "trials").iterdir()}
    assert left == {"listed", "claimed", "parent"}
    assert [path.name for path in mirror.iterdir()] == ["listed"]
    assert [trial.digest for trial in store.trials(first)] == ["listed"]
    assert find_orphans(store, settings) == []
