"""Reads all data of a report once: from the store, the shards and the provenance files.

Letters: B bins of time, L expert layers, E experts.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures import cost as costs
from evenload.pipeline.figures.loads import max_vio, utilisation
from evenload.pipeline.records import provenance
from evenload.pipeline.records.load_series import percent_of_fair
from evenload.pipeline.records.lost_records import lost_records
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.shards import iter_history
from evenload.pipeline.report.run_theory import Conduct, conduct
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import AttemptRecord, SweepRecord, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import Answer, answer_of, readable_spec
from evenload.pipeline.sweep.audit import Finding, audit, read_facts
from evenload.pipeline.sweep.setting import is_comparable
from evenload.pipeline.sweep.step_curves import advised_ranges

MAX_MAP_CELLS = 6_000  # cells of a map over time; its SVG then has half a megabyte
MAX_TIME_BINS = 120


class LoadMap(NamedTuple):
    """The loads of one run in percent of the fair share; counts are summed before the ratio."""

    name: str
    percent_LE: NDArray[np.int16]  # the last quarter of the run
    percent_BE: NDArray[np.int16]  # the whole run, in the layer that is least even in the end
    step_B: NDArray[np.int32]  # the first step of each bin
    layer_names: list[str]
    layer: str  # name of the layer in percent_BE


class Evidence(NamedTuple):
    sweep: SweepRecord
    spec: SweepSpec | None  # None: of another version, and not readable by this one
    trials: tuple[TrialRecord, ...]  # in sweep order
    attempts: Mapping[str, tuple[AttemptRecord, ...]]  # by digest
    answer: Answer
    findings: tuple[Finding, ...]
    advised: Mapping[str, tuple[float, float]]  # place -> step sizes of `sign` that theory advises
    cost: costs.SweepCost
    lost: Mapping[str, str]  # digest -> what of its records cannot be read
    held_seconds: float  # time for which workers held trials
    cost_settings: costs.CostSettings
    conducts: Mapping[str, Conduct]  # by digest
    maps: tuple[LoadMap, ...]  # of the best and of the worst trial
    origins: Mapping[str, tuple[str, ...]]  # commit, device, version.torch, ... -> distinct values
    written_at: datetime


def gather(
    store: SweepStore, settings: Settings, cost_settings: costs.CostSettings, sweep_id: str
) -> Evidence:
    """Reads a sweep in any state.  Raises: SpecError: it is unknown"""
    sweep = store.sweep(sweep_id)
    trials = tuple(store.trials(sweep_id))
    attempts = {
        trial.digest: tuple(store.attempts(trial.digest)) for trial in trials if trial.attempt
    }
    specs = {trial.digest: TrialSpec.model_validate(trial.spec) for trial in trials}
    folders = {trial.digest: readable_dir(settings, trial.digest) for trial in trials}
    loads = {digest: iter_history(folder, columns=["load"]) for digest, folder in folders.items()}
    found = {digest: costs.recorded(loads[digest], spec) for digest, spec in specs.items()}
    each = [costs.trial_cost(trial, found[trial.digest], cost_settings) for trial in trials]
    spec = readable_spec(store, sweep_id)
    answer = answer_of(trials, spec, store.curves(sweep_id), sweep_id)
    return Evidence(
        sweep=sweep,
        spec=spec,
        trials=trials,
        attempts=attempts,
        answer=answer,
        findings=tuple(audit(read_facts(settings, answer, trials))),
        advised=advised_ranges(settings, answer, trials),
        cost=costs.sweep_cost(each),
        lost={t.digest: text for t in trials if (text := lost_records(folders[t.digest], t))},
        held_seconds=costs.held_seconds(chain.from_iterable(attempts.values())),
        cost_settings=cost_settings,
        conducts={
            digest: conduct(iter_history(folders[digest]), spec) for digest, spec in specs.items()
        },
        maps=tuple(
            _map(trial, folders[trial.digest], answer.axes.both(trial))
            for trial in best_and_worst(trials, answer)
        ),
        origins=_origins(chain.from_iterable(map(provenance.read, folders.values()))),
        written_at=datetime.now(UTC),
    )


def best_and_worst(trials: Sequence[TrialRecord], answer: Answer) -> list[TrialRecord]:
    """A trial of the named setting, and the least even trial at the same place.

    The place is one with the largest expert count, and the seed the first. Without a claim the most
    even trial is used.
    """
    done = [trial for trial in trials if is_comparable(trial)]
    if not done:
        return []
    largest = max(_experts(trial) for trial in done)
    at = next(answer.axes.place(trial) for trial in done if _experts(trial) == largest)
    peers = [trial for trial in done if answer.axes.place(trial) == at]
    named = {setting.name for setting in answer.named}
    chosen = [trial for trial in peers if answer.axes.both(trial) in named]
    best = chosen[0] if chosen else min(peers, key=lambda trial: trial.figure("max_vio"))
    worst = max(peers, key=lambda trial: trial.figure("max_vio"))
    return [best] if worst is best else [best, worst]


def _map(trial: TrialRecord, folder: Path, name: str) -> LoadMap:
    spec = TrialSpec.model_validate(trial.spec)
    names, E = spec.model.load_shape.layers, spec.model.load_shape.num_experts
    L, steps = len(names), spec.train.steps
    bins = min(MAX_TIME_BINS, max(1, MAX_MAP_CELLS // E), steps)
    count_BLE = np.zeros((bins, L, E), np.int64)
    late_LE = np.zeros((L, E), np.int64)
    for chunk in iter_history(folder, columns=["load"]):
        np.add.at(count_BLE, (chunk.step_S - 1) * bins // steps, chunk.count_SLE)
        late_LE += chunk.count_SLE[chunk.step_S > steps - max(1, steps // 4)].sum(axis=0)
    layer = int(np.nan_to_num(max_vio(late_LE, spec.balancer.target), nan=-1.0).argmax())
    return LoadMap(
        name=name,
        percent_LE=percent_of_fair(utilisation(late_LE, spec.balancer.target)),
        percent_BE=percent_of_fair(utilisation(count_BLE[:, layer], spec.balancer.target)),
        step_B=(np.arange(bins) * steps // bins + 1).astype(np.int32),
        layer_names=list(names),
        layer=names[layer],
    )


def _origins(attempts: Iterable[Mapping[str, str]]) -> dict[str, tuple[str, ...]]:
    """The distinct values of each field of the provenance; normally one."""
    found: dict[str, dict[str, None]] = {}
    for origin in attempts:
        for name, value in origin.items():
            found.setdefault(name, {})[value] = None
    return {name: tuple(values) for name, values in found.items()}


def _experts(trial: TrialRecord) -> int:
    return int(trial.spec["model"]["num_experts"])
