"""Does a step size transfer: is the best one at few experts also the best one at many?

Letters: N seeds, U step sizes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.states import TrialRecord, TrialState
from evenload.pipeline.sweep.setting import LOSS, is_yardstick
from evenload.pipeline.sweep.statistics import Interval, interval

DRAWS = 2000
Losses = NDArray[np.float64]  # (N, U)
ByStep = dict[tuple[float, str], float]  # step size, seed and what else varies -> loss


class Transfer(NamedTuple):
    """One rule, from one expert count to a larger one, over the step sizes that both have."""

    kind: str
    from_experts: int
    to_experts: int
    best_from: float  # step size of least mean loss
    best_to: float
    seeds: int  # times what else the sweep varies
    probability: float | None  # that both have the same best step; None: one seed tells none
    price: Interval  # bits per byte lost at `to_experts` by taking over `best_from`

    @property
    def transfers(self) -> bool:
        return self.best_from == self.best_to


def transfers(trials: Sequence[TrialRecord]) -> tuple[Transfer, ...]:
    """One for every rule and pair of expert counts with two step sizes or more in common.

    The probability counts how often both expert counts have the same best step where losses are
    drawn again from what the seeds show: seeds are independent, their spread is pooled over step
    sizes, and losses of one seed stay together.
    """
    found: list[Transfer] = []
    for kind, by_experts in _losses(trials).items():
        for few, many in itertools.combinations(sorted(by_experts), 2):
            transfer = _transfer(kind, few, many, by_experts[few], by_experts[many])
            if transfer is not None:
                found.append(transfer)
    return tuple(found)


def _losses(
    trials: Sequence[TrialRecord],
) -> dict[str, dict[int, ByStep]]:
    """kind -> experts -> losses, of trials that are complete."""
    found: dict[str, dict[int, ByStep]] = defaultdict(lambda: defaultdict(dict))
    for trial in trials:
        balancer = trial.spec["balancer"]
        step = balancer.get("step_size", balancer.get("coefficient"))
        is_done = trial.state is TrialState.COMPLETED and LOSS in trial.result
        if step is not None and is_done and not is_yardstick(balancer["kind"]):
            experts = int(trial.spec["model"]["num_experts"])
            found[_rule(trial.label, step)][experts][step, _block(trial)] = trial.result[LOSS]
    return found


def _block(trial: TrialRecord) -> str:
    model = {k: v for k, v in trial.spec["model"].items() if k != "num_experts"}
    return repr((model, trial.spec.get("data"), trial.spec["train"]))


def _rule(label: str, step: float) -> str:
    """The label without its step size: `sign 0.1 schedule=inverse` is another rule than `sign`."""
    return " ".join(word for word in label.split() if word != f"{step:g}")


def _transfer(
    kind: str,
    few: int,
    many: int,
    loss_few: ByStep,
    loss_many: ByStep,
) -> Transfer | None:
    common = loss_few.keys() & loss_many.keys()
    seeds = sorted({seed for _, seed in common})
    steps = [
        step
        for step in sorted({step for step, _ in common})
        if all((step, seed) in common for seed in seeds)
    ]
    if len(steps) < 2:
        return None
    few_NU, many_NU = (
        np.array([[losses[step, seed] for step in steps] for seed in seeds])
        for losses in (loss_few, loss_many)
    )
    best_few, best_many = int(few_NU.mean(axis=0).argmin()), int(many_NU.mean(axis=0).argmin())
    return Transfer(
        kind=kind,
        from_experts=few,
        to_experts=many,
        best_from=steps[best_few],
        best_to=steps[best_many],
        seeds=len(seeds),
        probability=_same_best(few_NU, many_NU) if len(seeds) > 1 else None,
        price=interval((many_NU[:, best_few] - many_NU[:, best_many]).tolist()),
    )


def _same_best(few_NU: Losses, many_NU: Losses) -> float:
    rng = np.random.default_rng(0)
    best_few, best_many = _best_of_draws(rng, few_NU), _best_of_draws(rng, many_NU)
    return float((best_few == best_many).mean())


def _best_of_draws(rng: np.random.Generator, loss_NU: Losses) -> NDArray[np.intp]:
    """The best step of each draw of the mean losses, given the losses of N seeds.

    A seed's own level moves all steps alike and cancels. What is left has one variance, with
    (N - 1)(U - 1) degrees of freedom, so the means are Student t around the observed ones.
    """
    num_seeds, num_steps = loss_NU.shape
    mean_U = loss_NU.mean(axis=0)
    rest_NU = loss_NU - mean_U - loss_NU.mean(axis=1, keepdims=True) + loss_NU.mean()
    freedom = (num_seeds - 1) * (num_steps - 1)
    scale = np.sqrt((rest_NU**2).sum() / rng.chisquare(freedom, DRAWS) / num_seeds)
    noise = rng.standard_normal((DRAWS, num_steps)) * scale[:, None]
    return np.argmin(mean_U + noise, axis=1)
