"""Runs balancing rules on streams of scores: routes, observes and updates step by step.

All rules get the same scores. Seeds are stacked where training stacks layers, so one update
computes all of them.

Letters: S seeds, T tokens, E experts, K top-k, N steps.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.scores import read_recording
from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.pipeline.spec.simulation import Recorded, SimulationSpec, StreamSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import Balancer, Observation
from evenload.workers.simulation.score_streams import Size, score_stream

ProgressCallback = Callable[[int, int, str], None]  # done, total, stream


class Frame(NamedTuple):
    score_STE: Tensor
    observation: Observation
    bias_SE: Tensor  # the bias that routed this step


def run_rules(spec: SimulationSpec, stream: StreamSpec) -> Iterator[dict[str, Frame]]:
    """Runs all rules on a stream and yields, for every step, one frame per label of a rule."""
    device = torch.device(spec.device)
    size = size_of(spec, stream)
    generator = torch.Generator(device).manual_seed(spec.first_seed)
    torch.manual_seed(spec.first_seed)  # random_router draws from the global generator
    rules = {rule.label: make_balancer(rule, spec.top_k) for rule in spec.rules}
    shares = {rule.label: _share(rule, size.experts, device) for rule in spec.rules}
    states = {label: rule.init(size.seeds, size.experts, device) for label, rule in rules.items()}
    for step, score_STE in enumerate(score_stream(stream, size, generator), start=1):
        frames = {}
        for label, rule in rules.items():
            progress = step / size.steps
            seen = observe(rule, states[label], score_STE, spec.top_k, shares[label], progress)
            frames[label] = Frame(score_STE, seen, states[label].bias_LE)
            states[label] = rule.update(seen, states[label])
        yield frames


def observe(
    rule: Balancer, state: Any, score_STE: Tensor, top_k: int, share_E: Tensor, progress: float
) -> Observation:
    """Routes one step and returns its observation, which the rule's update needs."""
    bias_S1E = state.bias_LE.unsqueeze(1)
    expert_SN = rule.adjust(score_STE, bias_S1E).topk(top_k, dim=-1).indices.flatten(1)
    count_SE = torch.zeros_like(state.bias_LE, dtype=torch.int64)
    count_SE.scatter_add_(1, expert_SN, torch.ones_like(expert_SN))
    statistic = None if rule.measure is None else rule.measure.of(score_STE, bias_S1E, top_k)
    target_SE = share_E * count_SE.sum(dim=-1, keepdim=True)
    return Observation(count_SE, target_SE, progress, statistic)


def size_of(spec: SimulationSpec, stream: StreamSpec) -> Size:
    """The size in the spec, or that of a recording.

    Raises:   SpecError: the recording has another number of experts, or scores that a rule cannot
    """
    if not isinstance(stream, Recorded):
        return Size(spec.seeds, spec.tokens, spec.num_experts, spec.steps)
    recording = read_recording(stream.path)
    steps, layers, tokens, experts = recording.score_NLTE.shape
    if recording.unit != "probability" and any(rule.kind == "quantile" for rule in spec.rules):
        raise SpecError(
            f"rules: 'quantile' is made for scores in (0, 1), but those in {str(stream.path)!r} "
            f"are in units of a {recording.unit}; remove it"
        )
    if experts != spec.num_experts:
        raise SpecError(
            f"num_experts={spec.num_experts}, but {str(stream.path)!r} has {experts} experts; "
            f"set num_experts={experts}"
        )
    return Size(layers, tokens, experts, steps)


def _share(rule: BalancerSpec, num_experts: int, device: torch.device) -> Tensor:
    return torch.tensor(rule.target or (1 / num_experts,) * num_experts, device=device)
