"""The cost of trials: device time, energy, carbon, and the share that imbalance wastes.

All functions are pure. Energy is that of the GPU's own counter if there is one, and otherwise comes
from a stated model.

Letters: S steps, L expert layers, E experts, K top-k, R expert-parallel ranks.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from evenload.pipeline.figures.loads import History, ep_effective_util
from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import Model, TrialSpec
from evenload.pipeline.states import AttemptRecord, TrialRecord, TrialState

EP_SIZES = (2, 4, 8, 16, 32, 64)
JOULES_PER_KWH = 3.6e6
# A figure of a trial's result, which the counter of the first worker's GPU has measured. All
# workers of a trial do equal work.
JOULES_PER_STEP = "joules_per_step"


class CostSettings(BaseSettings):
    """The factors for energy and carbon: EVENLOAD_COST_* variables override these defaults."""

    model_config = SettingsConfigDict(
        env_prefix="EVENLOAD_COST_",
        env_ignore_empty=True,
        frozen=True,
        use_attribute_docstrings=True,
    )

    gpu_watts: NonNegativeFloat = 700.0
    """Power of a GPU without a counter; the default is the limit of an H100 or H200 SXM."""
    core_watts: NonNegativeFloat = 5.0
    """Power of a CPU core; the default is 280 W over the 64 cores of an EPYC 7763, rounded."""
    overhead: float = Field(default=1.0, ge=1)
    """Power of the building over that of the devices (PUE); 1 counts the devices alone."""
    # 14.6 Gt of CO2 over 12,609 TWh / 40.9 % of electricity, both from the source below.
    grams_per_kwh: NonNegativeFloat = 473.0
    """Grams of CO2 equivalent per kWh."""
    carbon_source: str = "world mean of 2024, Ember, Global Electricity Review 2025"
    """Source of the carbon figure; required if the figure is set."""

    @model_validator(mode="after")
    def _carbon_has_a_source(self) -> Self:
        given = self.model_fields_set
        if "grams_per_kwh" in given and "carbon_source" not in given:
            raise ValueError(
                f"grams_per_kwh={self.grams_per_kwh:g} has no source; "
                "name it in EVENLOAD_COST_CARBON_SOURCE"
            )
        return self


class Waiting(NamedTuple):
    """The time that a synchronous expert-parallel step over `ranks` ranks would lose by waiting.

    Experts are placed on the ranks in order, E / R on each, and in every layer all ranks wait for
    the fullest one. This is a lower bound, because counts are of whole optimizer steps and
    micro-batches are less even than their sum. Communication is left out.
    """

    ranks: int
    expert_share: float  # share of the expert layers' time, over the whole run
    step_share: float  # share of the step's time, which is taken as proportional to model FLOPs
    steady_step_share: float  # step_share over the last quarter of the run; NaN before it


class Recorded(NamedTuple):
    """What a trial's shards record about its cost.

    stretch:         ranks -> time of the expert layers over that with an even load, mean over steps
                     and layers; only for expert-parallel sizes that divide E
    steady_stretch:  likewise over the last quarter of the run
    """

    steps: int
    seconds: float
    stretch: Mapping[int, float]
    steady_stretch: Mapping[int, float]


class TrialCost(NamedTuple):
    """The cost of the recorded steps. The whole time of attempts is in `held_seconds`."""

    digest: str
    label: str
    state: TrialState
    device: str  # cpu or cuda
    seconds: float  # of training
    gpu_seconds: float
    core_seconds: float  # without a GPU: seconds times threads, over all workers
    joules: float
    is_measured: bool  # whether the GPU's counter measured the joules
    grams: float  # CO2 equivalent
    waiting: tuple[Waiting, ...]


class SweepCost(NamedTuple):
    trials: tuple[TrialCost, ...]
    gpu_seconds: float
    core_seconds: float
    joules: float
    measured_share: float  # of the joules; NaN if there are none
    grams: float
    waiting: tuple[Waiting, ...]  # means over the trials, weighted by their seconds


def recorded(chunks: Iterable[History], spec: TrialSpec) -> Recorded:
    """Sums up a trial's history, whose chunks need only the column `load`."""
    steady_from = spec.train.steps - max(1, spec.train.steps // 4) + 1
    return waits(chunks, spec.model.load_shape.num_experts, steady_from)


def waits(chunks: Iterable[History], num_experts: int, steady_from: int = 1) -> Recorded:
    """Sums up any history.  Args: steady_from: first step of the steady state"""
    sizes = [size for size in EP_SIZES if num_experts % size == 0]
    total_R, steady_R = np.zeros(len(sizes)), np.zeros(len(sizes))
    steps = steady_steps = 0
    seconds = 0.0
    for chunk in chunks:
        stretch_SR = _stretch(chunk, sizes)
        is_steady_S = chunk.step_S >= steady_from
        total_R += stretch_SR.sum(axis=0)
        steady_R += stretch_SR[is_steady_S].sum(axis=0)
        steps += len(chunk.step_S)
        steady_steps += int(is_steady_S.sum())
        seconds += float(chunk.scalars["seconds"].sum())
    stretch = dict(zip(sizes, (total_R / steps).tolist(), strict=True)) if steps else {}
    steady_R /= max(1, steady_steps)
    steady = dict(zip(sizes, steady_R.tolist(), strict=True)) if steady_steps else {}
    return Recorded(steps, seconds, stretch, steady)


def waiting(found: Recorded, model: Model, seq_len: int) -> tuple[Waiting, ...]:
    """The waiting at every expert-parallel size that divides E, smallest first."""
    size = model_size(model)
    expert_flops = size.routed_flops_per_token / size.forward_flops_per_token(seq_len)
    return tuple(
        Waiting(
            ranks,
            expert_share=1 - 1 / stretch,
            step_share=_share_lost(expert_flops, stretch),
            steady_step_share=_share_lost(expert_flops, found.steady_stretch.get(ranks, math.nan)),
        )
        for ranks, stretch in found.stretch.items()
    )


def trial_cost(trial: TrialRecord, found: Recorded, settings: CostSettings) -> TrialCost:
    spec = TrialSpec.model_validate(trial.spec)
    on_gpu = spec.runtime.device == "cuda"
    worker_seconds = found.seconds * spec.runtime.workers
    gpu_seconds = worker_seconds if on_gpu else 0.0
    core_seconds = 0.0 if on_gpu else worker_seconds * spec.runtime.threads
    measured = trial.result.get(JOULES_PER_STEP)
    if measured is None:
        joules = gpu_seconds * settings.gpu_watts + core_seconds * settings.core_watts
    else:
        joules = measured * found.steps * spec.runtime.workers
    joules *= settings.overhead
    return TrialCost(
        digest=trial.digest,
        label=trial.label,
        state=trial.state,
        device=spec.runtime.device,
        seconds=found.seconds,
        gpu_seconds=gpu_seconds,
        core_seconds=core_seconds,
        joules=joules,
        is_measured=measured is not None,
        grams=joules / JOULES_PER_KWH * settings.grams_per_kwh,
        waiting=waiting(found, spec.model, spec.train.seq_len),
    )


def sweep_cost(trials: Iterable[TrialCost]) -> SweepCost:
    costs = tuple(trials)
    joules = math.fsum(cost.joules for cost in costs)
    measured = math.fsum(cost.joules for cost in costs if cost.is_measured)
    return SweepCost(
        trials=costs,
        gpu_seconds=math.fsum(cost.gpu_seconds for cost in costs),
        core_seconds=math.fsum(cost.core_seconds for cost in costs),
        joules=joules,
        measured_share=measured / joules if joules else float("nan"),
        grams=math.fsum(cost.grams for cost in costs),
        waiting=_mean_waiting(costs),
    )


def held_seconds(attempts: Iterable[AttemptRecord]) -> float:
    """How long workers held trials, including start-up, checkpoints, evaluation and lost work.

    The time of a worker that trained several trials at once counts once. An attempt without an end
    counts up to its last heartbeat.
    """
    spans: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for attempt in attempts:
        end = attempt.ended_at or attempt.heartbeat_at
        spans[attempt.worker].append((attempt.started_at, end))
    return math.fsum(_covered_seconds(sorted(found)) for found in spans.values())


def basis(cost: SweepCost, settings: CostSettings) -> str:
    """A text that explains how energy and carbon were determined, with all factors and sources."""
    watts = [f"{settings.gpu_watts:g} W per GPU"] if cost.gpu_seconds else []
    watts += [f"{settings.core_watts:g} W per CPU core"] if cost.core_seconds else []
    modelled = f"modelled as {' and '.join(watts) or 'nothing'} over the seconds of training"
    counted = "measured by the GPUs' own counters (NVML)"
    share = cost.measured_share
    energy = modelled
    if share > 0:
        energy = counted if share == 1 else f"{share:.0%} {counted}, the rest {modelled}"
    housed = "devices alone, without the building"
    if settings.overhead > 1:
        housed = f"times {settings.overhead:g} for the building"
    return (
        f"Energy: {energy}; {housed}. "
        f"Carbon: {settings.grams_per_kwh:g} g CO2e per kWh ({settings.carbon_source})."
    )


def _stretch(
    chunk: History, sizes: Sequence[int]
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Load of the fullest rank over that of the mean rank, mean over layers; (S, len(sizes))."""
    columns = [(1 / ep_effective_util(chunk.count_SLE, size)).mean(axis=-1) for size in sizes]
    return np.stack(columns, axis=-1) if columns else np.zeros((len(chunk.step_S), 0))


def _share_lost(expert_flops: float, stretch: float) -> float:
    """The share of a step that is lost if its expert part takes `stretch` times as long."""
    surplus = expert_flops * (stretch - 1)
    return surplus / (1 + surplus)


def _covered_seconds(spans: Sequence[tuple[datetime, datetime]]) -> float:
    """The time that the spans cover, counting overlaps once. They must be sorted by start."""
    seconds, covered_until = 0.0, spans[0][0]
    for start, end in spans:
        start = max(start, covered_until)
        if end > start:
            seconds += (end - start).total_seconds()
            covered_until = end
    return seconds


def _mean_waiting(costs: Sequence[TrialCost]) -> tuple[Waiting, ...]:
    """The means at every size, weighted by the seconds of the trials. NaN does not count."""
    by_size: dict[int, list[tuple[float, Waiting]]] = defaultdict(list)
    for cost in costs:
        for found in cost.waiting:
            by_size[found.ranks].append((cost.seconds, found))
    means = []
    for ranks, entries in sorted(by_size.items()):
        share_N3 = np.array([found[1:] for _, found in entries])
        weight_N3 = np.where(np.isnan(share_N3), 0.0, [[seconds] for seconds, _ in entries])
        with np.errstate(invalid="ignore"):
            mean_3 = np.nansum(weight_N3 * share_N3, axis=0) / weight_N3.sum(axis=0)
        means.append(Waiting(ranks, *mean_3.tolist()))
    return tuple(means)
