from __future__ import annotations

from typing import Any

import pytest

from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.workers.cli import sweep as sweep_commands
from infra.benchmarks.coordinator import submit


@pytest.fixture
def sweep_id(here: Any) -> str:
    """Four trials: one failed, one training, two waiting; the sweep is paused with a note."""
    settings = Settings(home=here.folder / ".evenload")
    settings.root.mkdir()
    store = SweepStore(settings.store_url)
    store.migrate()
    sweep_id = submit(store, 4)
    failed = store.claim_next(WorkKind.TRAIN, "w", 60)
    assert failed is not None
    store.finish(failed, TrialState.FAILED, error="no")
    store.claim_next(WorkKind.TRAIN, "w", 60)
    store.pause(sweep_id, note="paused: for a test")
    store.close()
    return sweep_id


def test_of_a_large_sweep_only_running_and_failed_trials_are_shown(
    here: Any, sweep_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_commands, "MANY", 3)
    shown = here("sweep", "status", sweep_id).out
    assert "paused: for a test" in shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("sign ")]
    assert [row[3] for row in rows] == ["failed", "training"]
    assert "`--all` shows every trial" in shown
    assert here("sweep", "status", sweep_id, "--all").out.count("queued") == 2


def test_the_list_counts_trials_and_names_the_note(here: Any, sweep_id: str) -> None:
    (listed,) = here("sweep", "list", "--json").document
    assert listed["trials"] == {"queued": 2, "training": 1, "failed": 1}
    assert (listed["note"], listed["priority"]) == ("paused: for a test", 0)


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel", "retry"])
def test_commands_that_change_a_sweep_are_idempotent(here: Any, sweep_id: str, verb: str) -> None:
    assert [here("sweep", verb, sweep_id).code for _ in range(2)] == [0, 0]


def test_a_command_for_one_trial_does_not_change_others(here: Any, sweep_id: str) -> None:
    waiting = f"{2:016x}"
    assert here("sweep", "cancel", sweep_id, "--trial", waiting).code == 0
    trials = here("sweep", "list", "--json").document[0]["trials"]
    assert trials == {"queued": 1, "training": 1, "failed": 1, "cancelled": 1}
    refused = here("sweep", "stop", sweep_id, "--trial", "nope")
    assert refused.code == 2
    assert "has no trial 'nope'" in refused.err


def test_an_extension_needs_a_completed_trial_and_more_steps(here: Any, sweep_id: str) -> None:
    refused = here("sweep", "extend", sweep_id, "--steps", "8")
    assert refused.code == 2
    assert "no completed trial to extend" in refused.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either --seeds or --steps"),
        (["--seeds", "2", "--steps", "9"], "give either --seeds or --steps"),
        (["--steps", "9", "--top", "2"], "--top: it needs --seeds"),
        (["--seeds", "2"], "is paused; seeds can be added once it is finished"),
    ],
)
def test_an_extension_says_what_it_needs(
    here: Any, sweep_id: str, arguments: list[str], words: str
) -> None:
    refused = here("sweep", "extend", sweep_id, *arguments)
    assert refused.code == 2
    assert words in refused.err
