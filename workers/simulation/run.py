"""Runs a simulation: measures how well and how fast every rule balances, and checks the theory.

Letters: S seeds, N steps.
"""

import torch
from torch import Tensor

from evenload.pipeline.figures.loads import max_vio_floor
from evenload.pipeline.spec.simulation import Recorded, SimulationSpec, StreamSpec
from evenload.workers.balancing.base import Observation
from evenload.workers.simulation.findings import check_theory
from evenload.workers.simulation.result import Run, SimulationResult
from evenload.workers.simulation.rule_runner import ProgressCallback, run_rules, size_of
from evenload.workers.simulation.score_streams import Size


def simulate(
    spec: SimulationSpec, progress: ProgressCallback | None = None, *, theory: bool = False
) -> SimulationResult:
    """Runs every rule on every stream of the spec. The same spec gives the same bits.

    Args:
        progress: called with (steps done, all steps, name of the stream); with `theory`,
                  afterwards with (streams checked, all streams, name)
        theory:   also check the statements of the theory and compute the regret of every rule
    Raises:   SpecError: a recording is missing or does not fit
    """
    runs: list[Run] = []
    for index in range(len(spec.streams)):
        runs += _runs(spec, index, progress)
    findings = check_theory(spec, progress) if theory else ()
    return SimulationResult(spec, tuple(runs), findings)


def _runs(spec: SimulationSpec, index: int, progress: ProgressCallback | None) -> list[Run]:
    """Runs all rules on the stream with this index."""
    name, stream = list(spec.streams.items())[index]
    size = size_of(spec, stream)
    loads: dict[str, list[Tensor]] = {rule.label: [] for rule in spec.rules}
    for step, frames in enumerate(run_rules(spec, stream), start=1):
        for label, frame in frames.items():
            loads[label].append(_load_figures(frame.observation))
        if progress is not None and (step % 10 == 0 or step == size.steps):
            progress(index * spec.steps + step, len(spec.streams) * spec.steps, name)
    jump = _jump(stream, size)
    runs = []
    for rule in spec.rules:
        floor = max_vio_floor(size.tokens, size.experts, spec.top_k, rule.target)
        runs.append(Run(name, rule, torch.stack(loads[rule.label]).cpu().numpy(), floor, jump))
    return runs


def _load_figures(observation: Observation) -> Tensor:
    """Maximum and minimum of A / L, and the share of empty experts, (S, 3)."""
    load_SE = observation.count_LE / observation.target_LE
    idle_S = (observation.count_LE == 0).float().mean(dim=-1)
    return torch.stack([load_SE.amax(dim=-1), load_SE.amin(dim=-1), idle_S], dim=-1)


def _jump(stream: StreamSpec, size: Size) -> int | None:
    at = None if isinstance(stream, Recorded) else stream.jump_at
    return None if at is None else round(at * size.steps)
