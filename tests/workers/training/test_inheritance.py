from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
import torch

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.fence import Fence
from evenload.pipeline.records.shards import newest_checkpoint, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training import checkpoint, inheritance
from evenload.workers.training.inheritance import inherit
from evenload.workers.training.loop import TrainOutcome

MakeSpec = Callable[..., TrialSpec]
RunTrial = Callable[..., TrainOutcome]


def files_of(settings: Settings, digest: str) -> set[str]:
    folder = settings.trial_dir(digest)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


TIMED = ("seconds", "joules", "watts", "tokens_per_second")  # measured, so never equal


def test_with_constant_rates_an_extended_trial_equals_one_that_always_had_its_length(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    constant = {"schedule": "constant", "warmup_steps": 2}
    short, long = (make_spec(train=constant | {"steps": steps}) for steps in (10, 16))
    run_trial(short, digest="short")
    for _ in range(2):
        inherit(settings, "longer", "short")
    assert newest_checkpoint(settings.trial_dir("longer")) == 10
    extended, whole = run_trial(long, digest="longer"), run_trial(long, digest="whole")
    first, second = (
        checkpoint.load(Path(urlparse(outcome.checkpoint_uri).path))
        for outcome in (extended, whole)
    )
    for name, tensor in first.model.items():
        assert torch.equal(tensor, second.model[name]), name
    histories = [read_history(settings.trial_dir(name)) for name in ("longer", "whole")]
    assert (histories[0].count_SLE == histories[1].count_SLE).all()
    assert (histories[0].scalars["loss"] == histories[1].scalars["loss"]).all()
    kept = {key: v for key, v in extended.result.items() if not any(t in key for t in TIMED)}
    assert kept
    assert kept == {key: whole.result[key] for key in kept}
    assert newest_checkpoint(settings.trial_dir("short")) == 10


def test_a_trial_with_its_own_checkpoint_inherits_nothing(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    run_trial(make_spec(train={"steps": 4}), digest="short")
    run_trial(make_spec(train={"steps": 8}), digest="own")
    before = files_of(settings, "own")
    inherit(settings, "own", "short")
    assert newest_checkpoint(settings.trial_dir("own")) == 8
    assert files_of(settings, "own") == before


def test_an_interrupted_copy_leaves_no_checkpoint_without_its_records(
    make_spec: MakeSpec,
    run_trial: RunTrial,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_trial(make_spec(train={"steps": 10}), digest="short")
    parts = [path for path in files_of(settings, "short") if "part-" in path]
    assert len(parts) >= 2
    copy = inheritance._copy
    for whole_copies in range(len(parts)):
        left = iter(range(whole_copies))

        def cut_off(source: Path, target: Path, fence: Fence, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise OSError("killed")
            copy(source, target, fence)

        monkeypatch.setattr(inheritance, "_copy", cut_off)
        with pytest.raises(OSError, match="killed"):
            inherit(settings, f"cut-{whole_copies}", "short")
        assert newest_checkpoint(settings.trial_dir(f"cut-{whole_copies}")) == 0


def test_a_missing_checkpoint_names_its_trial(settings: Settings) -> None:
    with pytest.raises(SpecError, match=r"extends='short': no checkpoint in .*short"):
        inherit(settings, "longer", "short")
