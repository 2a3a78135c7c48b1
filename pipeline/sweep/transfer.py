"""Does a step size transfer, that is, is the best one at few experts also the best one at many?

Letters: N seeds, U step sizes.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.axes import Axes, seed_of
from evenload.pipeline.sweep.setting import LOSS, is_comparable, is_yardstick
from evenload.pipeline.sweep.statistics import Interval, interval

DRAWS = 2000
Losses = NDArray[np.float64]  # (N, U)
ByStep = dict[tuple[float, int], float]  # (step size, seed) -> loss


class Transfer(NamedTuple):
    """One rule, with all else equal, at two expert counts, over the step sizes that both have."""

    kind: str
    from_experts: int
    to_experts: int
    best_from: float  # the step size with the least mean loss
    best_to: float
    seeds: int
    probability: float | None  # that both have the same best step size; None with one seed
    price: Interval  # bits per byte that are lost at `to_experts` by training with `best_from`

    @property
    def transfers(self) -> bool:
        return self.best_from == self.best_to


def transfers(trials: Sequence[TrialRecord], axes: Axes) -> tuple[Transfer, ...]:
    """One per rule and pair of expert counts that have at least two step sizes in common.

    The probability is the share of random draws of the mean losses in which both expert counts have
    the same best step size. Seeds are independent, and their spread is pooled over step sizes.
    """
    found: list[Transfer] = []
    for kind, by_experts in _losses(trials, axes).items():
        for few, many in itertools.combinations(sorted(by_experts), 2):
            transfer = _transfer(kind, few, many, by_experts[few], by_experts[many])
            if transfer is not None:
                found.append(transfer)
    return tuple(found)


def _losses(trials: Sequence[TrialRecord], axes: Axes) -> dict[str, dict[int, ByStep]]:
    """rule, with all else that varies -> number of experts -> losses of the complete trials"""
    found: dict[str, dict[int, ByStep]] = defaultdict(lambda: defaultdict(dict))
    for trial in trials:
        balancer = trial.spec["balancer"]
        step = balancer.get("step_size", balancer.get("coefficient"))
        if step is not None and is_comparable(trial) and not is_yardstick(balancer["kind"]):
            experts = int(trial.spec["model"]["num_experts"])
            rule = _rule(axes.beside_experts(trial), step)
            found[rule][experts][step, seed_of(trial)] = trial.figure(LOSS)
    return found


def _rule(label: str, step: float) -> str:
    """The label without the step size. `sign 0.1 schedule=inverse` is another rule than `sign`."""
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
    """The index of the best step size in each of DRAWS draws of the mean losses.

    The level of a seed shifts all its losses alike and cancels. The residuals have one variance
    with (N - 1)(U - 1) degrees of freedom, so the mean losses are drawn from Student's t around the
    observed ones.
    """
    num_seeds, num_steps = loss_NU.shape
    mean_U = loss_NU.mean(axis=0)
    rest_NU = loss_NU - mean_U - loss_NU.mean(axis=1, keepdims=True) + loss_NU.mean()
    freedom = (num_seeds - 1) * (num_steps - 1)
    scale = np.sqrt((rest_NU**2).sum() / rng.chisquare(freedom, DRAWS) / num_seeds)
    noise = rng.standard_normal((DRAWS, num_steps)) * scale[:, None]
    return np.argmin(mean_U + noise, axis=1)
