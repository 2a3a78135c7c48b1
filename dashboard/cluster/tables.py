"""Tables of nodes, workers, running trials and waiting sweeps."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import pandas as pd

from evenload.dashboard.cluster.health import COORDINATOR, GONE_SECONDS, age
from evenload.dashboard.record_tables import label_of
from evenload.dashboard.wording import ago
from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import (
    DeedRecord,
    PresenceRecord,
    SweepOverview,
    TrialRecord,
    TrialState,
)

GIB = 2**30

Sweeps = Sequence[SweepOverview]


class Totals(NamedTuple):
    """Sums over all running coordinators."""

    nodes: int
    slots: int  # trials that can be trained at once
    free: int
    waiting_train: int
    waiting_eval: int


def totals(present: Sequence[PresenceRecord], sweeps: Sweeps, now: datetime) -> Totals:
    """The sums. Trials of active and stopping sweeps wait, even without a coordinator."""
    waiting: Counter[TrialState] = Counter()
    for one in sweeps:
        waiting.update(one.counts if one.sweep.state.is_going else {})
    coordinators = _coordinators(present, now)
    return Totals(
        nodes=len(node_table(present, now).query("State == 'alive'")),
        slots=sum(int(one.facts.get("slots", {}).get("train", 0)) for one in coordinators),
        free=sum(int(one.facts.get("free", {}).get("train", 0)) for one in coordinators),
        waiting_train=waiting[TrialState.QUEUED],
        waiting_eval=waiting[TrialState.TRAINED],
    )


def deed_table(deeds: Iterable[DeedRecord]) -> pd.DataFrame:
    """One row per verb that somebody used."""
    return pd.DataFrame(
        {
            "When (UTC)": f"{deed.at:%Y-%m-%d %H:%M:%S}",
            "Who": deed.who,
            "Verb": deed.verb,
            "Sweep": deed.sweep_id,
            "Trial": deed.digest or "all",
        }
        for deed in deeds
    )


def node_table(present: Sequence[PresenceRecord], now: datetime) -> pd.DataFrame:
    """One row per node of the coordinators' clusters."""
    rows = {
        node["node_id"]: {
            "Host": node["host"],
            "State": "alive" if node["is_alive"] else "dead",
            "Cores": node["resources"].get("CPU", 0.0),
            "GPUs": node["resources"].get("GPU", 0.0),
            "Memory": node["resources"].get("memory", 0.0) / GIB,
            "Node": node["node_id"][:12],
        }
        for one in _coordinators(present, now)
        for node in one.facts.get("nodes", [])
    }
    return pd.DataFrame(rows.values(), columns=["Host", "State", "Cores", "GPUs", "Memory", "Node"])


def actor_table(present: Sequence[PresenceRecord], now: datetime) -> pd.DataFrame:
    """One row per coordinator or worker, the newest announcement first."""
    shown = sorted(present, key=lambda one: age(one, now))
    columns = {
        "digest": [one.facts.get("digest", "") for one in shown],
        "Name": [one.name for one in shown],
        "Role": [one.role for one in shown],
        "Works on": [one.facts.get("label", "") for one in shown],
        "Sweep": [one.facts.get("sweep_id") or "" for one in shown],
        "Attempt": [one.facts.get("attempt") for one in shown],
        "Memory": [one.facts.get("rss_bytes", 0) / GIB or None for one in shown],
        "Here for": [duration((now - one.started_at).total_seconds()) for one in shown],
        "Seen": [ago(one.seen_at, max(now, one.seen_at)) for one in shown],
    }
    return pd.DataFrame(columns)


def queue_table(sweeps: Sweeps) -> pd.DataFrame:
    """One row per sweep that is not over, in the order in which their trials start."""
    shown = [
        (one.sweep, Counter[TrialState](one.counts))
        for one in sweeps
        if one.sweep.finished_at is None
    ]
    shown.sort(key=lambda entry: (-entry[0].priority, entry[0].created_at))
    columns = {
        "Sweep": [sweep.sweep_id for sweep, _ in shown],
        "State": [str(sweep.state) for sweep, _ in shown],
        "Priority": [sweep.priority for sweep, _ in shown],
        "Wait for training": [count[TrialState.QUEUED] for _, count in shown],
        "Train": [count[TrialState.TRAINING] for _, count in shown],
        "Wait for evaluation": [count[TrialState.TRAINED] for _, count in shown],
        "Are evaluated": [count[TrialState.EVALUATING] for _, count in shown],
    }
    return pd.DataFrame(columns)


def lease_table(trials: Iterable[TrialRecord], now: datetime) -> pd.DataFrame:
    """One row per trial, all held by workers, the oldest heartbeat first."""
    held = sorted(trials, key=lambda trial: trial.heartbeat_at or now)
    columns = {
        "digest": [trial.digest for trial in held],
        "Trial": [label_of(trial) for trial in held],
        "Worker": [trial.worker or "" for trial in held],
        "Step": [trial.progress.step if trial.progress else 0 for trial in held],
        "Tokens/s": [
            trial.progress.tokens_per_second if trial.progress else None for trial in held
        ],
        "Heartbeat": [ago(trial.heartbeat_at, now) for trial in held],
        "Lease": [_lease(trial, now) for trial in held],
    }
    return pd.DataFrame(columns)


def _coordinators(present: Sequence[PresenceRecord], now: datetime) -> list[PresenceRecord]:
    return [one for one in present if one.role == COORDINATOR and age(one, now) < GONE_SECONDS]


def _lease(trial: TrialRecord, now: datetime) -> str:
    if trial.lease_until is None:
        return "–"
    left = (trial.lease_until - now).total_seconds()
    return f"{duration(left)} left" if left >= 0 else f"lost {duration(-left)} ago"
