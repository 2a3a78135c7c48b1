"""Compares rules with the best hand-tuned rule on the same scores.

Letters: N steps, S seeds, T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evenload.pipeline.figures.loads import max_vio_floor
from evenload.pipeline.spec.balancers import parse_balancer
from evenload.pipeline.spec.simulation import Recorded, StreamSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import Balancer
from evenload.workers.simulation.result import BALANCED, steps_until
from evenload.workers.simulation.rule_runner import observe
from evenload.workers.simulation.score_streams import Size, score_stream

STEADY = 0.4  # share of the steps at the end that counts as steady state
TUNED_STEPS = (1e-3, 3e-3, 6e-3, 0.012, 0.025, 0.05, 0.1, 0.2)
TUNED_MEMORIES = (0.0, 0.5, 0.9)
SIGN_STEPS = (1e-3, 3e-3, 1e-2)


class Score(NamedTuple):
    """Figures of one rule on one stream; MaxVio and steps as in the rows of a simulation."""

    rule: str
    max_vio: float
    worst_step: float
    steps_to_balance: int | None
    recovery_steps: int | None
    over_tuned: float  # MaxVio divided by that of the best tuned rule, minus 1


def rule(kind: str, top_k: int, **params: Any) -> Balancer:
    return make_balancer(parse_balancer({"kind": kind, **params}), top_k)


def tuned_rules(top_k: int) -> dict[str, Balancer]:
    """The grid that hand tuning searches: two rules with several step sizes, one with memories."""
    return {
        **{f"proportional {u:g}": rule("proportional", top_k, step_size=u) for u in TUNED_STEPS},
        **{f"sign {u:g}": rule("sign", top_k, step_size=u) for u in SIGN_STEPS},
        **{f"quantile {m:g}": rule("quantile", top_k, memory=m) for m in TUNED_MEMORIES},
    }


def compare(
    contenders: Mapping[str, Balancer],
    tuned: Mapping[str, Balancer],
    stream: StreamSpec,
    size: Size,
    top_k: int,
) -> list[Score]:
    """Scores of the contenders and of the best tuned rule, all on the same stream."""
    rules = {**contenders, **tuned}
    vio = _max_vio(rules, score_stream(stream, size, torch.Generator().manual_seed(0)), size, top_k)
    at = None if isinstance(stream, Recorded) else stream.jump_at
    jump = None if at is None else round(at * size.steps)
    floor = max_vio_floor(size.tokens, size.experts, top_k)
    steady = {name: float(v[-round(STEADY * len(v)) :].mean()) for name, v in vio.items()}
    best = min(tuned, key=lambda name: steady[name])
    return [
        _score(name, vio[name], floor, jump, steady[name] / steady[best] - 1)
        for name in [*contenders, best]
    ]


def report(title: str, scores: Iterable[Score]) -> None:
    """Prints one line per rule."""
    print(title)
    for score in scores:
        cold, back = score.steps_to_balance or "-", score.recovery_steps or "-"
        print(
            f"  {score.rule:22} MaxVio {score.max_vio:.4f} {100 * score.over_tuned:+6.1f} % "
            f"worst {score.worst_step:.3f}  cold {cold}  after jump {back}",
            flush=True,
        )


def _max_vio(
    rules: Mapping[str, Balancer], scores: Iterable[Tensor], size: Size, top_k: int
) -> dict[str, NDArray[np.float32]]:
    """MaxVio of every rule, (N, S)."""
    states = {
        name: rule.init(size.seeds, size.experts, torch.device("cpu"))
        for name, rule in rules.items()
    }
    share_E = torch.full((size.experts,), 1 / size.experts)
    vio: dict[str, list[Tensor]] = {name: [] for name in rules}
    for step, score_STE in enumerate(scores, start=1):
        for name, balancer in rules.items():
            progress = step / size.steps
            seen = observe(balancer, states[name], score_STE, top_k, share_E, progress)
            vio[name].append((seen.count_LE / seen.target_LE).amax(dim=-1) - 1)
            states[name] = balancer.update(seen, states[name])
    return {name: torch.stack(values).numpy() for name, values in vio.items()}


def _score(
    name: str, vio_NS: NDArray[np.float32], floor: float, jump: int | None, over: float
) -> Score:
    steady_NS = vio_NS[-round(STEADY * len(vio_NS)) :]
    limit = BALANCED * floor
    back = None if jump is None else steps_until(vio_NS[jump:], limit)
    return Score(
        name,
        float(steady_NS.mean()),
        float(steady_NS.max()),
        steps_until(vio_NS[:jump], limit),
        back,
        over,
    )
