"""How often the answer of a sweep is wrong, on simulated sweeps whose truth is known.

`python -m infra.research.answer_characteristics [SWEEPS]` writes infra/results/
answer_characteristics.md, and every cell to the .csv beside it; it takes a quarter of an hour on
two cores. A cell whose rates miss a bound is simulated again with AGAIN times as many fresh sweeps,
which replace the first. The exit code is 1 if a rate still misses its bound beyond chance.

Losses are in margins and the noise is that of the recorded sweeps: 0.65 of the margin per run after
the level of its seed is taken out, and 0.21 in log MaxVio. Letters: S settings, N seeds.
"""

from __future__ import annotations

import csv
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import exp, sqrt
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np

from evenload.pipeline.sweep.racing import is_decided
from evenload.pipeline.sweep.seed_fit import Values
from evenload.pipeline.sweep.selection import (
    ALPHA,
    LossSelection,
    alpha_of_look,
    compare_evenness,
    differences,
    select_by_loss,
)

RESULT = Path(__file__).parents[1] / "results/answer_characteristics.md"
MARGIN = 1.0
NOISE, SEED_LEVEL, LOG_NOISE = 0.65, 1.0, 0.21
UNEQUAL = 0.4  # standard deviation of the log of a setting's noise
HOLES = 0.1
SETTINGS, SEEDS = (2, 4, 7, 15, 30), (1, 2, 3, 5, 8, 12, 20)
TRUTHS = ("spread", "wide", "equal", "ladder", "worst")
NOISES = ("equal noise", "unequal noise", "holes")
TOP, FRESH = 6, 10  # of the two stages
LOOK_SEEDS, LOOKS = 3, 4
BLOCK, ROUNDS = 3, 4  # of a race
WRONG, COVERED = 0.05, (0.93, 0.97)
AGAIN = 10


class Truth(NamedTuple):
    """The true loss of every setting above the least one, in margins, and true log MaxVio."""

    excess_S: Values
    uneven_S: Values
    noise_S: Values  # factors


class Outcome(NamedTuple):
    """What one simulated sweep says; None where it says nothing."""

    is_named: bool
    is_wrong: bool  # the named setting costs more than the margin
    any_wrong: bool  # a setting that passes costs more than the margin
    out_wrong: bool  # a setting that is called out is within the margin
    more_even_wrong: bool  # a setting that is called less even than the named one is not
    covered: bool | None  # all differences to the first setting are in their 95 % intervals
    price: float | None  # log of named over best true MaxVio among the settings within the margin
    trials: int = 0  # of a race


NOTHING_SAID = Outcome(False, False, False, False, False, None, None)


class Cell(NamedTuple):
    """Rates over the sweeps of one cell."""

    design: str
    truth: str
    noise: str
    settings: int
    seeds: int
    sweeps: int
    claims: float
    wrong: float
    any_wrong: float
    out_wrong: float
    more_even_wrong: float
    covered: float | None
    price: float | None
    trials: float  # mean


def truth_of(kind: str, settings: int, is_unequal: bool, rng: np.random.Generator) -> Truth:
    noise_S = np.exp(rng.normal(0, UNEQUAL, settings)) if is_unequal else np.ones(settings)
    uneven_S = rng.normal(1, 0.5, settings)
    match kind:
        case "spread" | "wide":
            excess_S = rng.normal(0, 0.5 if kind == "spread" else 1.5, settings)
        case "equal":
            excess_S, uneven_S = np.zeros(settings), np.ones(settings)
        case "ladder":
            excess_S = np.linspace(0, 3, settings)
            uneven_S = 2 - excess_S / 2
        case _:  # balance is bought with loss: all but one are more even and just too costly
            excess_S = np.append(0.0, np.full(settings - 1, 1.0001 * MARGIN))
            uneven_S = np.append(2.0, rng.normal(1, 0.3, settings - 1))
    return Truth(excess_S - excess_S.min(), uneven_S, noise_S)


def drawn(truth: Truth, seeds: int, has_holes: bool, rng: np.random.Generator) -> list[Values]:
    """Losses and log MaxVio, both (S, N). Every setting keeps at least one value."""
    S = len(truth.excess_S)
    noise_S1 = truth.noise_S[:, None]
    loss_SN = truth.excess_S[:, None] + rng.normal(0, SEED_LEVEL, seeds)
    loss_SN = loss_SN + NOISE * noise_S1 * rng.normal(size=(S, seeds))
    log_SN = truth.uneven_S[:, None] + LOG_NOISE * noise_S1 * rng.normal(size=(S, seeds))
    if has_holes:
        is_hole_SN = rng.random((S, seeds)) < HOLES
        is_hole_SN[np.arange(S), rng.integers(seeds, size=S)] = False
        loss_SN[is_hole_SN] = log_SN[is_hole_SN] = np.nan
    return [loss_SN, log_SN]


def outcome(truth: Truth, loss_SN: Values, log_SN: Values, alpha: float) -> Outcome:
    found = select_by_loss(loss_SN, MARGIN, alpha)
    above_S, half_S = differences(found.fit, 0)
    true_S = truth.excess_S - truth.excess_S[0]
    covered = None
    if found.fit.freedom and np.isfinite(half_S).all():
        covered = bool((abs(above_S - true_S) <= half_S + 1e-12).all())
    named = _named(found, log_SN)
    even = compare_evenness(log_SN, alpha)
    good_S = truth.excess_S <= MARGIN
    less_even_S = np.array(
        [named is not None and not even.is_tied(named, other) for other in range(len(log_SN))]
    )
    uneven_S = truth.uneven_S
    return Outcome(
        named is not None,
        named is not None and not good_S[named],
        bool((found.passes_S & ~good_S).any()),
        bool((found.is_out_S & good_S).any()),
        named is not None
        and bool((less_even_S & found.passes_S & (uneven_S <= uneven_S[named])).any()),
        covered,
        None if named is None else float(uneven_S[named] - uneven_S[good_S].min()),
    )


def _named(found: LossSelection, log_SN: Values) -> int | None:
    if not found.passes_S.any():
        return None
    return int(np.where(found.passes_S, np.nanmean(log_SN, axis=1), np.inf).argmin())


def one_stage(kind: str, noise: str, S: int, N: int, rng: np.random.Generator) -> Outcome:
    truth = truth_of(kind, S, noise == "unequal noise", rng)
    return outcome(truth, *drawn(truth, N, noise == "holes", rng), alpha_of_look(1))


def two_stages(kind: str, noise: str, S: int, N: int, rng: np.random.Generator) -> Outcome:
    """One seed each, then the best few with fresh seeds; the claim is among those."""
    truth = truth_of(kind, S, noise == "unequal noise", rng)
    loss_SN, log_SN = drawn(truth, 1, False, rng)
    near_S = loss_SN[:, 0] <= loss_SN.min() + MARGIN
    kept = np.lexsort((np.where(near_S, log_SN[:, 0], loss_SN[:, 0]), ~near_S))[:TOP]
    among = Truth(*(part[kept] for part in truth))
    among = among._replace(excess_S=among.excess_S - among.excess_S.min())
    return outcome(among, *drawn(among, N, noise == "holes", rng), alpha_of_look(1))


def several_looks(kind: str, noise: str, S: int, N: int, rng: np.random.Generator) -> Outcome:
    """Seeds are added until there is a claim; each look has its share of alpha."""
    truth = truth_of(kind, S, noise == "unequal noise", rng)
    loss_SN, log_SN = drawn(truth, N * LOOKS, noise == "holes", rng)
    seen = [
        outcome(truth, loss_SN[:, : N * look], log_SN[:, : N * look], alpha_of_look(look))
        for look in range(1, LOOKS + 1)
        if np.isfinite(loss_SN[:, : N * look]).any(axis=1).all()
    ]
    last = next((found for found in seen if found.is_named), seen[-1])
    return last._replace(
        any_wrong=any(found.any_wrong for found in seen),
        out_wrong=any(found.out_wrong for found in seen),
        covered=None,
    )


def race(kind: str, noise: str, S: int, N: int, rng: np.random.Generator) -> Outcome:
    """Blocks of seeds for settings that are not shown to be out, as `sweep.racing` decides."""
    truth = truth_of(kind, S, noise == "unequal noise", rng)
    loss_SN, log_SN = drawn(truth, N * ROUNDS, noise == "holes", rng)
    left_S, alpha, trials = np.arange(S), alpha_of_look(1) / ROUNDS, 0
    seen: list[Outcome] = []
    for number in range(1, ROUNDS + 1):
        trials += N * len(left_S)
        among = Truth(*(part[left_S] for part in truth))
        values = [table_SN[left_S, : N * number] for table_SN in (loss_SN, log_SN)]
        has_value_S = np.isfinite(values[0]).any(axis=1)
        if not has_value_S.all():  # a setting that has only failed so far is not in the family
            left_S = left_S[has_value_S]
            values = [value_SN[has_value_S] for value_SN in values]
            truth = truth._replace(excess_S=truth.excess_S - truth.excess_S[left_S].min())
            among = Truth(*(part[left_S] for part in truth))
        if len(left_S) < 2:
            break
        seen.append(outcome(among, *values, alpha))
        found = select_by_loss(values[0], MARGIN, alpha)
        if is_decided(found.passes_S, found.is_out_S, values[1], alpha):
            break
        left_S = left_S[~found.is_out_S]
    last = seen[-1] if seen else NOTHING_SAID
    return last._replace(
        any_wrong=any(found.any_wrong for found in seen),
        out_wrong=any(found.out_wrong for found in seen),
        covered=None,
        trials=trials,
    )


DESIGNS = {
    "one stage": one_stage,
    "two stages": two_stages,
    "several looks": several_looks,
    "race": race,
}


def cell(
    design: str, kind: str, noise: str, S: int, N: int, sweeps: int, is_again: bool = False
) -> Cell:
    """Simulates one cell. It always has the same random numbers, and others if it is again."""
    rng = np.random.default_rng([*f"{design} {kind} {noise} {S} {N}{' again' * is_again}".encode()])
    found = [DESIGNS[design](kind, noise, S, N, rng) for _ in range(sweeps)]
    covered = [one.covered for one in found if one.covered is not None]
    prices = [one.price for one in found if one.price is not None]
    rates = [
        fmean(getattr(one, name) for one in found)
        for name in ("is_named", "is_wrong", "any_wrong", "out_wrong", "more_even_wrong")
    ]
    return Cell(
        design,
        kind,
        noise,
        S,
        N,
        sweeps,
        *rates,
        fmean(covered) if covered else None,
        exp(fmean(prices)) if prices else None,
        fmean(one.trials for one in found),
    )


def designs(
    settings: Sequence[int], seeds: Sequence[int]
) -> Iterable[tuple[str, str, str, int, int]]:
    """The arguments of every cell, without the number of sweeps."""
    for noise, kind in itertools.product(NOISES, TRUTHS):
        for S, N in itertools.product(settings, seeds):
            yield "one stage", kind, noise, S, N
        yield "two stages", kind, noise, max(settings), FRESH
        for S in settings:
            yield "several looks", kind, noise, S, LOOK_SEEDS
        for S in settings[::-2]:  # races take longest
            yield "race", kind, noise, S, BLOCK


def _cell_of(arguments: tuple[str, str, str, int, int, int, bool]) -> Cell:
    return cell(*arguments)


def cells(sweeps: int, settings: Sequence[int], seeds: Sequence[int]) -> Iterable[Cell]:
    for design in designs(settings, seeds):
        yield cell(*design, sweeps)


def is_doubtful(one: Cell) -> bool:
    """Whether a rate of the cell misses its bound, be it by chance."""
    rates = (one.wrong, one.any_wrong, one.out_wrong, one.more_even_wrong)
    has_bad_cover = one.covered is not None and not COVERED[0] <= one.covered <= COVERED[1]
    return max(rates) > WRONG or has_bad_cover


def faults(found: Iterable[Cell]) -> list[str]:
    """The rates that miss their bounds by more than three standard errors.

    Coverage is held to its bounds in every cell, and as a mean over the cells of one noise.
    """
    problems = []
    by_noise: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for one in found:
        for name in ("wrong", "any_wrong", "out_wrong", "more_even_wrong"):
            rate = getattr(one, name)
            if rate > WRONG + _chance(one.sweeps):
                problems.append(f"{name} is {rate:.3f} in {one[:5]}")
        if one.covered is not None:
            by_noise[one.design, one.noise].append(one)
            by_noise[tuple(map(str, one[:5]))].append(one)
    for where, some in by_noise.items():
        covered = fmean(one.covered for one in some if one.covered is not None)
        chance = _chance(sum(one.sweeps for one in some))
        if not COVERED[0] - chance <= covered <= COVERED[1] + chance:
            problems.append(f"coverage is {covered:.3f} in {where}")
    return problems


def _chance(sweeps: int) -> float:
    """Three standard errors of a rate near .05 over so many sweeps."""
    return 3 * sqrt(WRONG * (1 - WRONG) / sweeps)


def page(found: Sequence[Cell]) -> str:
    sweeps = min(one.sweeps for one in found)
    again = sum(one.sweeps > sweeps for one in found)
    lines = [
        "# How often the answer is wrong",
        "",
        f"{sweeps} simulated sweeps in each of {len(found)} cells; the noise of a run is {NOISE} "
        f"of the margin. A rate of .05 is known to "
        f"{1.96 * sqrt(0.05 * 0.95 / sweeps):.3f}. {again} cells of them missed a bound and have "
        f"{AGAIN * sweeps} fresh sweeps instead ({1.96 * sqrt(0.05 * 0.95 / sweeps / AGAIN):.3f}).",
        f"Every comparison may spend {ALPHA:.0%} in all looks together, the first look half of it.",
        "",
        "Worst cell of each row, and the bounds that must hold: 5 % for every kind of wrong "
        "statement; coverage is the share of sweeps in which all 95 % intervals of differences to "
        "one setting hold together, a mean over the cells with its range.",
        "",
        "| design | noise | named setting wrong | any passing one wrong | any called out wrongly | "
        "wrongly called less even | coverage |",
        "|---|---|---|---|---|---|---|",
    ]
    for design, noise in itertools.product(DESIGNS, NOISES):
        some = [one for one in found if (one.design, one.noise) == (design, noise)]
        covered = [one.covered for one in some if one.covered is not None]
        worst = [
            f"{max(getattr(one, name) for one in some):.3f}"
            for name in ("wrong", "any_wrong", "out_wrong", "more_even_wrong")
        ]
        share = (
            f"{fmean(covered):.3f} ({min(covered):.3f} to {max(covered):.3f})" if covered else "-"
        )
        lines.append(f"| {design} | {noise} | {' | '.join(worst)} | {share} |")
    lines += [
        "",
        "The price: share of sweeps with a claim, and true MaxVio of the named setting over that "
        "of the most even one within the margin (equal noise).",
        "",
        f"| design | settings | seeds | {' | '.join(TRUTHS)} |",
        f"|---|---|---|{'---|' * len(TRUTHS)}",
    ]
    rows: dict[tuple[str, int, int], dict[str, Cell]] = defaultdict(dict)
    for one in found:
        if one.noise == NOISES[0]:
            rows[one.design, one.settings, one.seeds][one.truth] = one
    for (design, S, N), by_truth in rows.items():
        texts = (_price(by_truth[kind]) for kind in TRUTHS)
        seeds = {
            "two stages": f"1, then {TOP} x {N}",
            "several looks": f"{N} to {N * LOOKS}",
            "race": f"{N} to {N * ROUNDS}",
        }
        lines.append(f"| {design} | {S} | {seeds.get(design, N)} | {' | '.join(texts)} |")
    problems = faults(found)
    lines += ["", "Bounds: " + ("all hold." if not problems else "; ".join(problems)), ""]
    return "\n".join([*lines, "Written by `python -m infra.research.answer_characteristics`.", ""])


def _price(one: Cell) -> str:
    trials = f", {one.trials:.0f} trials" if one.trials else ""
    return f"{one.claims:.2f}" + ("" if one.price is None else f", {one.price:.2f}x") + trials


def main(arguments: list[str]) -> int:
    sweeps = int(arguments[0]) if arguments else 400
    # Each cell draws from a generator of its own, so the order and the processes do not matter.
    with ProcessPoolExecutor() as pool:
        wanted = [(*one, sweeps, False) for one in designs(SETTINGS, SEEDS)]
        found = list(pool.map(_cell_of, wanted))
        doubtful = [place for place, one in enumerate(found) if is_doubtful(one)]
        wanted = [(*wanted[place][:5], AGAIN * sweeps, True) for place in doubtful]
        for place, one in zip(doubtful, pool.map(_cell_of, wanted), strict=True):
            found[place] = one
    text = page(found)
    print(text)
    if not arguments:
        RESULT.write_text(text)
        with RESULT.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Cell._fields, *found])
    return int(bool(faults(found)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
