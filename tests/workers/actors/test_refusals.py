"""Workers refuse data that is not what was admitted: swapped links, changed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from evenload.pipeline.records.sinks import SinkGroup
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.training.identity import identify
from tests.workers.actors.conftest import BASE

SECRET = "the neighbour's key is 4711 "
ACTORS = {WorkKind.TRAIN: TrainActor, WorkKind.EVAL: EvalActor}
DAMAGE = {"link": "leads out of", "folder": "leads out of", "changed": "listed with other data"}


@pytest.fixture
def listed(tmp_path: Path) -> tuple[Settings, SweepStore, str, Path]:
    """A trial that was admitted, and the folder of its data."""
    texts, home = tmp_path / "root" / "texts", tmp_path / "home"
    texts.mkdir(parents=True)
    for n in range(20):
        (texts / f"{n}.txt").write_text(f"text {n} " * 200)
    settings = Settings(home=home, data_root=tmp_path / "root", heartbeat_seconds=0.2)
    data = {"kind": "files", "glob": f"{texts}/*.txt", "validation_share": 0.3}
    base = BASE | {"data": data, "model": BASE["model"] | {"vocab_size": 256}}
    spec = SweepSpec(name="s", base=base, axes={"train.seed": [0]})
    trials = identify(spec.expand(), settings)
    store = SweepStore(settings.store_url)
    store.migrate()
    store.add_sweep(spec, trials)
    return settings, store, trials[0][0], texts


@pytest.mark.parametrize(
    ("damage", "kind"),
    [("link", WorkKind.TRAIN), ("folder", WorkKind.EVAL), ("changed", WorkKind.TRAIN)],
)
def test_a_worker_refuses_what_was_swapped_after_the_admission(
    listed: tuple[Settings, SweepStore, str, Path], damage: str, kind: WorkKind
) -> None:
    settings, store, digest, texts = listed
    if kind is WorkKind.EVAL:
        claim = store.claim(digest, WorkKind.TRAIN, "w", 60)
        assert claim is not None
        store.finish(claim, TrialState.TRAINED, checkpoint_uri="file:///nowhere")
    outside = texts.parent.parent / "outside"
    outside.mkdir()
    (outside / "0.txt").write_text(SECRET * 200)
    if damage == "link":
        (texts / "0.txt").unlink()
        (texts / "0.txt").symlink_to(outside / "0.txt")
    elif damage == "folder":
        texts.rename(texts.with_name("away"))
        texts.symlink_to(outside)
    else:
        (texts / "0.txt").write_text("other 0 " * 200)
    actor = ACTORS[kind]("w", settings, lambda settings, run: SinkGroup([]))
    assert actor.work(digest) is TrialState.FAILED
    trial = store.trial(digest)
    assert DAMAGE[damage] in str(trial.error)
    assert trial.progress is None, "no step was made"
    kept = [path.read_bytes() for path in settings.root.rglob("*") if path.is_file()]
    # Tokens may have two bytes.
    both = [form for content in kept for form in (content, content[::2])]
    assert not any(SECRET.encode() * 2 in form for form in both), "read and kept"
