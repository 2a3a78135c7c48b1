"""Kills every part of a cluster during a sweep; run by `bash infra/test.sh --slow tests/faults`.

The final figures must equal those of an undisturbed sweep bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evenload.pipeline.states import TrialState
from tests.faults.outcome import check_attempts, finished_too_early, outcome, sweep, undisturbed
from tests.faults.services import until
from tests.faults.stack import VICTIMS, Stack

pytestmark = [pytest.mark.ray, pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_does_not_change_the_outcome(victim: str, stack: Stack, tmp_path: Path) -> None:
    name = f"crash-{victim.replace(' ', '-')}"
    spec = sweep(name, seeds=[100 + VICTIMS.index(victim)], steps=600)
    sweep_id = stack.submit(spec)
    stack.until_training(sweep_id)
    until(lambda: stack.crash(victim, sweep_id), 240, f"a {victim} to kill", every=0.02)
    assert finished_too_early(stack.mlflow_database, stack.store, sweep_id) == []
    stack.until_finished(sweep_id, 600)
    whole, _ = undisturbed(spec, tmp_path)
    assert set(whole.states.values()) == {TrialState.COMPLETED}
    assert outcome(stack.store, stack.settings, sweep_id) == whole
    check_attempts(stack.store, sweep_id)
    stack.until_runs_are_right(sweep_id)
