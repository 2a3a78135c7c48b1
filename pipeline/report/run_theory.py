"""Compares the statements of the theory with every recorded run.

Runs do not record scores, so this module tests only statements about counts and biases. `evenload
simulate --check theory` and `evenload advise` test the others.

Letters: S steps, L expert layers, E experts, K top-k, T tokens of a step; A load, L its fair share.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.figures.loads import History, Loads, max_vio
from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialRecord

STATEMENTS = {
    "counts": "Every layer assigns tokens x top-k in every step",
    "floor": "A rule that does not see later tokens is not more even than chance",
    "centred": "Biases sum to zero, because a common shift changes no choice",
    "travel": "Sign steps cannot move two biases apart by more than twice their sum",
    "cycle": "A constant sign step ends in a cycle around balance",
}
FLOOR_SLACK = 0.95  # the floor is a mean of many draws, and a run has only some hundred steps
CENTRED_WITHIN = 1e-5  # rounding error of float32 biases of order 1
STEP_LIMITED = 0.9  # share of the largest possible spread above which the steps were too small
TURNS_IN_A_CYCLE = 0.25  # share of moves; a bias that still drifts turns back in hardly any


class Verdict(NamedTuple):
    statement: str  # a key of STATEMENTS
    predicted: str
    observed: str
    holds: bool
    strain: float  # how nearly the run breaks the statement; above 1 it does


class Conduct(NamedTuple):
    steps: int
    miscounts: int  # number of layers and steps whose loads do not sum to T K
    steady_max_vio: float  # mean over layers and the last quarter of the steps; NaN before it
    off_centre: float  # largest |mean of a layer's biases|
    spread: float  # largest distance between two biases of a layer
    turn_share: float  # share of the last quarter's moves that reverse the previous move


def conduct(chunks: Iterable[History], spec: TrialSpec) -> Conduct:
    """Sums up a trial's history, whose chunks need loads and biases."""
    assignments = spec.train.tokens_per_step * spec.model.load_shape.top_k
    steady_from = spec.train.steps - max(1, spec.train.steps // 4) + 1
    steps = miscounts = turns = moves = steady_steps = 0
    steady_vio = off_centre = spread = 0.0
    last_SLE: NDArray[np.float32] | None = None  # biases of the last two steps
    for chunk in chunks:
        is_steady_S = chunk.step_S >= steady_from
        steps += len(chunk.step_S)
        miscounts += int((chunk.count_SLE.sum(axis=-1, dtype=np.int64) != assignments).sum())
        steady_steps += int(is_steady_S.sum())
        vio_SL = max_vio(chunk.count_SLE[is_steady_S], spec.balancer.target)
        steady_vio += float(vio_SL.mean(axis=-1).sum())
        if not chunk.bias_SLE.size:
            continue
        off_centre = max(off_centre, float(np.abs(chunk.bias_SLE.mean(axis=-1)).max()))
        spread = max(spread, float(np.ptp(chunk.bias_SLE, axis=-1).max()))
        before = [] if last_SLE is None else [last_SLE]
        bias_SLE = np.concatenate([*before, chunk.bias_SLE])
        move_SLE = np.diff(bias_SLE, axis=0)
        turn_SLE = move_SLE[1:] * move_SLE[:-1]  # below 0 where a move reverses the previous one
        turn_SLE = turn_SLE[is_steady_S[len(is_steady_S) - len(turn_SLE) :]]
        turns += int((turn_SLE < 0).sum())
        moves += int((turn_SLE != 0).sum())
        last_SLE = bias_SLE[-2:]
    steady_max_vio, turn_share = _ratio(steady_vio, steady_steps), _ratio(turns, moves)
    return Conduct(steps, miscounts, steady_max_vio, off_centre, spread, turn_share)


def verdicts(trial: TrialRecord, found: Conduct) -> list[Verdict]:
    """The results of the statements that apply to the trial's rule."""
    spec = TrialSpec.model_validate(trial.spec)
    if not found.steps:
        return []
    found_verdicts = (
        _counts(found),
        _floor(spec, found),
        _centred(spec.balancer, found),
        _travel(spec.balancer, found),
        _cycle(spec.balancer, found),
    )
    return [verdict for verdict in found_verdicts if verdict is not None]


def travel(balancer: BalancerSpec, updates: int) -> float | None:
    """The sum of step sizes over the first updates, ignoring pauses; None for other rules."""
    if balancer.kind != "sign":
        return None
    size, schedule = balancer.params["step_size"], balancer.params["schedule"]
    power = {"constant": 0.0, "inverse_sqrt": 0.5, "inverse": 1.0}[schedule]
    return float(size * (np.arange(1, updates + 1) ** -power).sum())


def _counts(found: Conduct) -> Verdict:
    off = found.miscounts
    return Verdict("counts", "no layer miscounts", f"{off} do", off == 0, float(off))


def _floor(spec: TrialSpec, found: Conduct) -> Verdict | None:
    """The floor is that of independent tokens. Tokens of a text are correlated, so above it."""
    if spec.balancer.rule.leaks_future or math.isnan(found.steady_max_vio):
        return None
    floor = Loads.of(spec).max_vio_floor
    vio = found.steady_max_vio
    strain = floor / vio if vio > 0 else 1.0
    predicted, holds = f"MaxVio at least {floor:.3f}", vio >= FLOOR_SLACK * floor
    return Verdict("floor", predicted, f"{vio:.3f}", holds, strain)


def _centred(balancer: BalancerSpec, found: Conduct) -> Verdict | None:
    if not balancer.params.get("centred", True) or found.spread == 0:
        return None
    strain = found.off_centre / (CENTRED_WITHIN * max(1.0, found.spread))
    return Verdict("centred", "mean bias 0", f"{found.off_centre:.1g} at most", strain <= 1, strain)


def _travel(balancer: BalancerSpec, found: Conduct) -> Verdict | None:
    sum_of_steps = travel(balancer, found.steps - 1)
    if not sum_of_steps:
        return None
    bound = 2 * sum_of_steps
    share = found.spread / bound
    limited = ": the step is too small for so short a run" if share > STEP_LIMITED else ""
    observed = f"{found.spread:.3g}, {share:.0%} of it{limited}"
    holds = share <= 1 + CENTRED_WITHIN
    return Verdict("travel", f"spread at most {bound:.3g}", observed, holds, share)


def _cycle(balancer: BalancerSpec, found: Conduct) -> Verdict | None:
    is_constant = balancer.kind == "sign" and balancer.params["schedule"] == "constant"
    if not is_constant or math.isnan(found.turn_share):
        return None
    arrived = found.turn_share >= TURNS_IN_A_CYCLE
    predicted = f"biases turn back in {TURNS_IN_A_CYCLE:.0%} of their moves or more"
    observed = f"{found.turn_share:.0%}" + ("" if arrived else ", still drifting")
    strain = TURNS_IN_A_CYCLE / found.turn_share if found.turn_share else math.inf
    return Verdict("cycle", predicted, observed, arrived, strain)


def _ratio(total: float, count: int) -> float:
    return total / count if count else float("nan")
