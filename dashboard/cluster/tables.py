"""Tables of nodes, workers, running trials and waiting sweeps."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

import pandas as pd

from evenload.dashboard.cluster.health import COORDINATOR, GONE_SECONDS, age, is_going
from evenload.dashboard.wording import ago
from evenload.pipeline.figures.wording import duration
from evenload.pipeline.states import (
    DeedRecord,
    PresenceRecord,
    SweepRecord,
    TrialRecord,
    TrialState,
)

GIB = 2**30


class Totals(NamedTuple):
    """Sums over all running coordinators."""

    nodes: int
    slots: int  # trials that can be trained at once
    free: int
    waiting_train: int
    waiting_eval: int


def totals(
    present: Sequence[PresenceRecord], sweeps: Iterable[tuple[SweepRecord, Sequence[TrialRecord]]],
    now: datetime,
) -> Totals:  # fmt: skip
    """The sums. Trials of active and stopping sweeps wait, even without a coordinator."""
    waiting = Counter(
        trial.state for sweep, trials in sweeps if is_going(sweep.state) for trial in trials
    )
    coordinators = [
        one for one in present if one.role == COORDINATOR and age(one, now) < GONE_SECONDS
    ]
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
        for one in present
        if one.role == COORDINATOR and age(one, now) < GONE_SECONDS
        for node in one.facts.get("nodes", [])
    }
    return pd.DataFrame(rows.values(), columns=["Host", "State", "Cores", "GPUs", "Memory", "Node"])


def actor_table(present: Sequence[PresenceRecord], now: datetime) -> pd.DataFrame:
    """One row per coordinator or worker, the newest announcement first."""
    rows = [
        {
            "digest": one.facts.get("digest", ""),
            "Name": one.name,
            "Role": one.role,
            "Works on": one.facts.get("label", ""),
            "Sweep": one.facts.get("sweep_id") or "",
            "Attempt": one.facts.get("attempt"),
            "Memory": one.facts.get("rss_bytes", 0) / GIB or None,
            "Here for": duration((now - one.started_at).total_seconds()),
            "Seen": ago(one.seen_at, max(now, one.seen_at)),
        }
        for one in sorted(present, key=lambda one: age(one, now))
    ]
    columns = [
        "digest",
        "Name",
        "Role",
        "Works on",
        "Sweep",
        "Attempt",
        "Memory",
        "Here for",
        "Seen",
    ]
    return pd.DataFrame(rows, columns=columns)


def queue_table(sweeps: Iterable[tuple[SweepRecord, Sequence[TrialRecord]]]) -> pd.DataFrame:
    """One row per sweep that is not over, in the order in which their trials start."""
    rows = [
        {
            "Sweep": sweep.sweep_id,
            "State": str(sweep.state),
            "Priority": sweep.priority,
            "Wait for training": count[TrialState.QUEUED],
            "Train": count[TrialState.TRAINING],
            "Wait for evaluation": count[TrialState.TRAINED],
            "Are evaluated": count[TrialState.EVALUATING],
            "created_at": sweep.created_at,
        }
        for sweep, trials in sweeps
        if sweep.finished_at is None
        for count in [Counter(trial.state for trial in trials)]
    ]
    columns = [
        "Sweep", "State", "Priority", "Wait for training", "Train", "Wait for evaluation",
        "Are evaluated", "created_at",
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    ordered = table.sort_values(["Priority", "created_at"], ascending=[False, True])
    return ordered.drop(columns="created_at").reset_index(drop=True)


def lease_table(trials: Iterable[TrialRecord], now: datetime) -> pd.DataFrame:
    """One row per trial that a worker holds, the oldest heartbeat first."""
    held = [trial for trial in trials if trial.state.is_held]
    held.sort(key=lambda trial: trial.heartbeat_at or now)
    return pd.DataFrame(
        {
            "digest": [trial.digest for trial in held],
            "Trial": [
                f"{trial.label}, {trial.spec['model']['num_experts']} experts" for trial in held
            ],
            "Worker": [trial.worker or "" for trial in held],
            "Step": [trial.progress.step if trial.progress else 0 for trial in held],
            "Tokens/s": [
                trial.progress.tokens_per_second if trial.progress else None for trial in held
            ],
            "Heartbeat": [ago(trial.heartbeat_at, now) for trial in held],
            "Lease": [_lease(trial, now) for trial in held],
        }
    )


def _lease(trial: TrialRecord, now: datetime) -> str:
    if trial.lease_until is None:
        return "–"
    left = (trial.lease_until - now).total_seconds()
    return f"{duration(left)} left" if left >= 0 else f"lost {duration(-left)} ago"
