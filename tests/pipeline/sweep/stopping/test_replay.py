"""Replays recorded learning curves under stopping policies; see record_curves.py."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import CurvePoint, TrialRecord, TrialState
from evenload.pipeline.sweep.stopping import stops

Row = Callable[..., TrialRecord]
HERE = Path(__file__).parent
WORKERS = 3
ORDERS = 10
BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 120, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign"},
    "eval": {"every_steps": 6},
}


class Replayed(NamedTuple):
    """The outcome of a replay, by digest."""

    final_loss: dict[str, float]  # the recorded loss at the last step, also of stopped trials
    reasons: dict[str, str]  # for the stopped trials
    trained_share: float  # share of all steps that were trained
    rows: dict[str, TrialRecord]


@pytest.fixture
def recorded(row: Row) -> dict[str, tuple[TrialRecord, list[CurvePoint]]]:
    document = json.loads((HERE / "recorded_curves.json").read_text())
    found = {}
    for trial in document["trials"]:
        kind, *step = trial["label"].split()
        train = BASE["train"] | {"seed": trial["seed"], "learning_rate": trial["learning_rate"]}
        balancer = {"kind": kind} | ({"step_size": float(step[0])} if step else {})
        record = row(TrialSpec.model_validate(BASE | {"train": train, "balancer": balancer}))
        curve = [
            CurvePoint(step, 64 * step, 1.0, loss, 0.1)
            for step, loss in zip(document["steps"], trial["val_loss"], strict=True)
        ]
        found[record.digest] = (record, curve)
    return found


@pytest.fixture
def replay(
    recorded: dict[str, tuple[TrialRecord, list[CurvePoint]]],
) -> Callable[[dict[str, Any], int], Replayed]:
    """Replays the trials on three workers in a random order, one point per curve at a time."""

    def run(stopping: dict[str, Any], seed: int) -> Replayed:
        spec = SweepSpec(name="s", base=BASE, axes={"train.seed": [0]}, stopping=stopping)
        waiting = list(recorded)
        random.Random(seed).shuffle(waiting)
        states = dict.fromkeys(recorded, TrialState.QUEUED)
        seen: dict[str, list[CurvePoint]] = {digest: [] for digest in recorded}
        reasons: dict[str, str] = {}
        while waiting or TrialState.TRAINING in states.values():
            for digest in waiting[: WORKERS - list(states.values()).count(TrialState.TRAINING)]:
                states[digest] = TrialState.TRAINING
                waiting.remove(digest)
            for digest in [d for d, state in states.items() if state is TrialState.TRAINING]:
                curve = recorded[digest][1]
                seen[digest].append(curve[len(seen[digest])])
                if len(seen[digest]) == len(curve):
                    states[digest] = TrialState.COMPLETED
            rows = [replace(recorded[digest][0], state=states[digest]) for digest in recorded]
            for digest, reason in stops(spec, seen, rows):
                states[digest] = TrialState.STOPPED
                reasons[digest] = reason
        trained = sum(len(points) for points in seen.values())
        return Replayed(
            {digest: curve[-1].val_loss for digest, (_, curve) in recorded.items()},
            reasons,
            trained / sum(len(curve) for _, curve in recorded.values()),
            {digest: record for digest, (record, _) in recorded.items()},
        )

    return run


Replay = Callable[[dict[str, Any], int], Replayed]


def best_rival(found: Replayed) -> str:
    rivals = {d: loss for d, loss in found.final_loss.items() if found.rows[d].label != "none"}
    return min(rivals, key=rivals.__getitem__)


@pytest.mark.parametrize("kind", ["asha", "extrapolate"])
@pytest.mark.parametrize("seed", range(ORDERS))
def test_the_true_best_is_not_stopped(replay: Replay, kind: str, seed: int) -> None:
    found = replay({"kind": kind}, seed)
    best = best_rival(found)
    assert best not in found.reasons, found.reasons[best]


def test_a_rung_during_the_warm_up_would_stop_the_best_trial(replay: Replay) -> None:
    """So the first rung is at a quarter, and these curves do detect a policy that is too eager."""
    stopped = [
        replay({"kind": "asha", "first_rung": 0.1, "slack": 0.0}, seed) for seed in range(ORDERS)
    ]
    assert sum(best_rival(found) in found.reasons for found in stopped) > ORDERS / 4


@pytest.mark.parametrize(("kind", "share"), [("asha", 0.86), ("extrapolate", 0.94)])
def test_stopping_saves_steps(replay: Replay, kind: str, share: float) -> None:
    """A third of all steps belong to the control, which is never stopped."""
    shares = [replay({"kind": kind}, seed).trained_share for seed in range(ORDERS)]
    assert sum(shares) / ORDERS < share


@pytest.mark.parametrize("kind", ["asha", "extrapolate"])
def test_every_stop_has_its_reason_and_the_control_continues(replay: Replay, kind: str) -> None:
    found = replay({"kind": kind}, 0)
    assert found.reasons
    assert all(reason.startswith(f"{kind}: ") for reason in found.reasons.values())
    assert not any(found.rows[digest].label == "none" for digest in found.reasons)


def test_without_a_policy_every_trial_ends(replay: Replay) -> None:
    found = replay({"kind": "none"}, 0)
    assert (found.reasons, found.trained_share) == ({}, 1.0)
