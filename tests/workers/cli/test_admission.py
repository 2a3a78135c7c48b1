from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evenload.pipeline.errors import StoreUnavailable
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.states import SweepState
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep import trial_plan
from evenload.workers.cli import listing as listing_module
from evenload.workers.cli import session
from evenload.workers.cli.admission import Admission, cap_priorities
from evenload.workers.cli.listing import Listing

Sweep = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings: Settings) -> Iterator[SweepStore]:
    store = SweepStore(settings.store_url)
    store.migrate()
    yield store
    store.close()


def listing(settings: Settings, has_cuda: bool = False) -> Listing:
    """Lists trials in this process."""
    return Listing(lambda _, call, *arguments: call(*arguments), settings, has_cuda)


def test_a_submitted_sweep_gets_its_trials(
    store: SweepStore, settings: Settings, sweep: Sweep
) -> None:
    sweep_id = store.submit(SweepSpec.model_validate(sweep()))
    Admission(store, listing(settings)).process_sweeps()
    assert store.sweep(sweep_id).is_expanded
    assert [trial.label for trial in store.trials(sweep_id)] == ["none", "sign 0.01"]


def test_auto_means_the_device_of_the_workers(
    store: SweepStore, settings: Settings, sweep: Sweep
) -> None:
    sweep_id = store.submit(SweepSpec.model_validate(sweep(runtime={"device": "auto"})))
    Admission(store, listing(settings, has_cuda=True)).process_sweeps()
    devices = {trial.spec["runtime"]["device"] for trial in store.trials(sweep_id)}
    assert devices == {"cuda"}


def test_a_sweep_that_cannot_run_is_paused_and_runs_after_a_repair_and_resume(
    store: SweepStore, settings: Settings, sweep: Sweep, tmp_path: Path
) -> None:
    tree = sweep(model={"vocab_size": 256})
    texts = str(tmp_path / "texts" / "*.txt")
    tree["base"]["data"] = {"kind": "files", "glob": texts, "validation_share": 0.3}
    sweep_id = store.submit(SweepSpec.model_validate(tree))
    service = Admission(store, listing(settings))
    service.process_sweeps()
    assert store.sweep(sweep_id).state is SweepState.PAUSED
    assert "matches no file" in str(store.sweep(sweep_id).note)
    (tmp_path / "texts").mkdir()
    for number in range(20):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"text {number} " * 500)
    store.resume(sweep_id)
    service.process_sweeps()
    assert store.sweep(sweep_id).state is SweepState.ACTIVE
    assert len(store.trials(sweep_id)) == 2


def test_a_database_that_does_not_answer_is_tried_again(
    store: SweepStore, settings: Settings, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = store.submit(SweepSpec.model_validate(sweep()))

    def away() -> None:
        raise StoreUnavailable("gone")

    service = Admission(store, listing(settings))
    with monkeypatch.context() as patched:
        patched.setattr(store, "sweeps", away)
        service.process_sweeps()
    service.process_sweeps()
    assert store.sweep(sweep_id).is_expanded


@pytest.mark.parametrize("verb", ["cancel", "stop", "delete"])
def test_a_sweep_that_is_ended_while_its_corpus_is_read_stays_ended(
    verb: str,
    store: SweepStore,
    settings: Settings,
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sweep_id = store.submit(SweepSpec.model_validate(sweep()))
    other = store.submit(SweepSpec.model_validate(sweep() | {"name": "other"}))

    def read(spec: SweepSpec, *arguments: Any) -> Any:
        if spec.name != "other":
            end(verb, store, sweep_id)
        return session.initial_trials(spec, *arguments)

    monkeypatch.setattr(listing_module, "initial_trials", read)
    Admission(store, listing(settings)).process_sweeps()
    assert store.sweep(other).is_expanded
    left = {sweep.sweep_id: sweep for sweep in store.sweeps()}
    if verb == "delete":
        assert sweep_id not in left
    else:
        assert left[sweep_id].state in (SweepState.CANCELLED, SweepState.FINISHED)
        assert not left[sweep_id].is_expanded


def end(verb: str, store: SweepStore, sweep_id: str) -> None:
    if verb == "stop":
        store.stop(sweep_id)
        store.finish_sweep(sweep_id)
    else:
        store.cancel(sweep_id)
    if verb == "delete":
        store.delete(sweep_id)


def test_an_error_of_one_sweep_s_data_pauses_it_and_delays_no_other(
    store: SweepStore,
    settings: Settings,
    sweep: Sweep,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = store.submit(SweepSpec.model_validate(sweep() | {"name": "older"}))
    broken = store.submit(SweepSpec.model_validate(sweep() | {"name": "broken"}))

    def read(spec: SweepSpec, *arguments: Any) -> Any:
        if spec.name == "broken":
            raise PermissionError(13, "Permission denied")
        return session.initial_trials(spec, *arguments)

    monkeypatch.setattr(listing_module, "initial_trials", read)
    Admission(store, listing(settings)).process_sweeps()
    assert store.sweep(older).is_expanded
    assert store.sweep(broken).state is SweepState.PAUSED
    assert "PermissionError: [Errno 13] Permission denied" in str(store.sweep(broken).note)


def test_a_sweep_that_needs_more_disk_than_is_free_is_paused_with_both_and_others_go_on(
    store: SweepStore, settings: Settings, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = store.submit(
        SweepSpec.model_validate(sweep(model={"num_experts": 256}) | {"name": "l"})
    )
    small = store.submit(SweepSpec.model_validate(sweep()))
    free = shutil.disk_usage(settings.root)._replace(free=20_000_000)
    monkeypatch.setattr(trial_plan.shutil, "disk_usage", lambda _: free)
    Admission(store, listing(settings)).process_sweeps()
    assert store.sweep(small).is_expanded
    assert store.sweep(large).state is SweepState.PAUSED
    note = str(store.sweep(large).note)
    assert re.search(r"may need .* of disk, and 20(\.0+)? MB are free .* free space", note), note


def test_a_priority_above_the_operators_maximum_is_lowered(store: SweepStore, sweep: Sweep) -> None:
    first = store.submit(SweepSpec.model_validate(sweep() | {"priority": 2147483647}))
    second = store.submit(SweepSpec.model_validate(sweep() | {"name": "low", "priority": -5}))
    cap_priorities(store, 100)
    assert [store.sweep(sweep_id).priority for sweep_id in (first, second)] == [100, -5]
