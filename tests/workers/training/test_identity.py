"""What of the code makes a trial another trial."""

from __future__ import annotations

import ast
import shutil
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.sinks import SinkGroup
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command
from evenload.workers.data import corpus
from evenload.workers.training import identity
from evenload.workers.training.loop import train


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


def test_sources_are_parsed_by_one_thread_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 raises SystemError, "AST constructor recursion depth mismatch", otherwise."""
    parse, inside, most = ast.parse, [], []

    def slow(source: str) -> ast.Module:
        inside.append(source)
        most.append(len(inside))
        time.sleep(0.005)
        inside.remove(source)
        return parse(source)

    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(ast, "parse", slow)
        texts = list(pool.map(identity.computed_by, [f"x = {number}" for number in range(12)]))
    assert texts[3] == "x = 3"
    assert max(most) == 1


def spec_of(folder: Path, seed: int = 0) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": "tiny"},
            "data": {"kind": "files", "glob": str(folder / "*.txt"), "validation_share": 0.3},
            "balancer": {"kind": "none"},
            "train": {"steps": 2, "batch_sequences": 2, "seq_len": 16, "seed": seed},
            "runtime": {"device": "cpu", "backend": "torch"},
        }
    )


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"text {number} " * 200)
    return folder


@pytest.mark.parametrize(
    ("asked", "has_cuda", "found"),
    [
        ("auto", True, "bfloat16"),
        ("auto", False, "float32"),
        ("float32", True, "float32"),
        ("bfloat16", False, "bfloat16"),
    ],
)
def test_the_precision_is_resolved_once(
    tmp_path: Path, asked: str, has_cuda: bool, found: str
) -> None:
    spec = spec_of(tmp_path)
    train = spec.train.model_copy(update={"precision": asked})
    runtime = spec.runtime.model_copy(update={"device": "auto"})
    spec = spec.model_copy(update={"train": train, "runtime": runtime})
    assert identity.resolve(spec, has_cuda).train.precision == found


def test_on_a_cpu_auto_is_the_trial_that_float32_always_was(tmp_path: Path) -> None:
    spec = spec_of(tmp_path)
    assert spec.train.precision == "auto"
    before = spec.model_dump(mode="json")
    before["train"]["precision"] = "float32"
    one, other = (
        identity.resolve(trial, has_cuda=False).digest("corpus", "core")
        for trial in (spec, TrialSpec.model_validate(before))
    )
    assert one == other


def test_a_sweep_reads_its_corpus_once_and_a_worker_does_not_read_it_again(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, calls = Settings(home=tmp_path), Counter[str]()

    def counted(name: str) -> None:
        whole = getattr(corpus, name)

        def call(*arguments: Any) -> Any:
            calls[name] += 1
            return whole(*arguments)

        monkeypatch.setattr(corpus, name, call)

    counted("read_documents")
    counted("source_files")
    listed = identity.identify([spec_of(texts, seed) for seed in range(50)], settings)
    assert len({digest for digest, _ in listed}) == 50
    assert calls == {"read_documents": 1, "source_files": 2}, "once to check, once to identify"
    for _, trial in listed[:3]:  # as a worker does
        corpus.prepare(trial.data, settings.corpus_dir)
    assert calls == {"read_documents": 1, "source_files": 5}


def test_a_corpus_that_changes_while_it_is_in_use_is_noticed(texts: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    ((digest, trial),) = identity.identify([spec_of(texts)], settings)
    listed = identity.corpus_digest(trial.data, settings.corpus_dir)
    identity.check_identity(trial, digest, settings, listed)
    (texts / "0.txt").write_text("TEXT 0 " * 200)  # of the same size
    run = RunIdentity(digest, "t", None, 1, {}, tags={"corpus": listed})
    with pytest.raises(SpecError, match="it changed while it was in use"):
        train(
            trial,
            settings=settings,
            digest=digest,
            sink=SinkGroup([]),
            report=lambda _: Command.CONTINUE,
            run=run,
        )


def test_a_worker_refuses_other_data_and_another_core_unless_told_not_to(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    ((digest, trial),) = identity.identify([spec_of(texts)], settings)
    listed = identity.corpus_digest(trial.data, settings.corpus_dir)
    with pytest.raises(
        SpecError, match=rf"trial {digest} was listed with other data .*data c0ffee"
    ):
        identity.check_identity(trial, digest, settings, "c0ffee")
    monkeypatch.setattr(identity, "core_version", lambda *_: "another core")
    with pytest.raises(SpecError, match=r"code another core.*run the same version everywhere"):
        identity.check_identity(trial, digest, settings, listed)
    identity.check_identity(
        trial, digest, settings.model_copy(update={"check_identity": False}), listed
    )


def test_tables_of_tiles_belong_to_the_identity_of_triton_alone(tmp_path: Path) -> None:
    tables = [tmp_path / name for name in ("a.json", "b.json")]
    for number, table in enumerate(tables):
        table.write_text(f'{{"some card": [{number}]}}')
    resolved = identity.resolve(spec_of(tmp_path), has_cuda=False)

    def versions(backend: str) -> set[str]:
        runtime = resolved.runtime.model_copy(update={"backend": backend})
        trial = resolved.model_copy(update={"runtime": runtime})
        homes = [Settings(home=tmp_path), *(Settings(home=tmp_path, tiles_file=t) for t in tables)]
        return {identity.core_version_of(trial, home) for home in homes}

    assert len(versions("triton")) == 3
    assert len(versions("torch")) == 1
    assert versions("torch").isdisjoint(versions("triton"))
