"""Checks the statements of the theory and computes the regret of every rule in a simulation.

To fit into memory it uses the first seed, a sample of the steps and, for the regret, the first
tokens of every step. The estimate stays unbiased.

Letters: N steps, T tokens, E experts.
"""

import torch
from torch import Tensor

from evenload.pipeline.spec.simulation import SimulationSpec, StreamSpec
from evenload.workers.simulation.regret import LayerRun, best_fixed_bias, regret
from evenload.workers.simulation.result import Finding
from evenload.workers.simulation.rule_runner import Frame, ProgressCallback, run_rules
from evenload.workers.simulation.theory_checks import Transition, check

SAMPLED_STEPS = 20
REGRET_TOKENS = 256
CHECKED_TOKENS = 1024


def check_theory(
    spec: SimulationSpec, progress: ProgressCallback | None = None
) -> tuple[Finding, ...]:
    """One finding per stream and rule, in the order of the spec."""
    findings: list[Finding] = []
    for index, (name, stream) in enumerate(spec.streams.items()):
        findings += _findings(spec, name, stream)
        if progress is not None:
            progress(index + 1, len(spec.streams), name)
    return tuple(findings)


def _findings(spec: SimulationSpec, name: str, stream: StreamSpec) -> list[Finding]:
    histories: dict[str, _History] = {rule.label: _History() for rule in spec.rules}
    scores: list[Tensor] = []
    every = max(1, spec.steps // SAMPLED_STEPS)
    for step, frames in enumerate(run_rules(spec, stream)):
        scores.append(next(iter(frames.values())).score_STE[0, :REGRET_TOKENS])
        for label, frame in frames.items():
            histories[label].add(frame, spec.top_k, sampled=step % every == 0)
    score_NTE = torch.stack(scores)
    best_of: dict[tuple[float, ...] | None, Tensor] = {}
    found = []
    for rule in spec.rules:
        history = histories[rule.label]
        load_E = history.share_E * score_NTE.shape[1] * spec.top_k
        if rule.target not in best_of:
            best_of[rule.target] = best_fixed_bias(score_NTE, load_E, spec.top_k)
        layer_run = LayerRun(score_NTE, torch.stack(history.biases), load_E, spec.top_k)
        verdicts = tuple(check(history.transitions))
        result = regret(layer_run, rule, best_of[rule.target])
        found.append(Finding(name, rule.label, verdicts, result))
    return found


class _History:
    """The biases and sampled updates of one rule."""

    def __init__(self) -> None:
        self.biases: list[Tensor] = []
        self.transitions: list[Transition] = []
        self.share_E = torch.empty(0)  # wanted share of the load
        self._pending: Transition | None = None

    def add(self, frame: Frame, top_k: int, *, sampled: bool) -> None:
        """Completes the pending update with this frame and starts one if the step is sampled."""
        bias_E = frame.bias_SE[0]
        if self._pending is not None:
            self.transitions.append(self._pending._replace(next_bias_E=bias_E))
        self.biases.append(bias_E)
        self._pending = None
        if sampled:
            score_TE = frame.score_STE[0, :CHECKED_TOKENS]
            target_E = frame.observation.target_LE[0]
            self.share_E = target_E / target_E.sum()
            load_E = self.share_E * len(score_TE) * top_k
            self._pending = Transition(score_TE, bias_E, bias_E, load_E, top_k)
