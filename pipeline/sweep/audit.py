"""Checks of a sweep for reasons to distrust its answer, each with evidence and a remedy.

To add a check, add a function and an entry in CHECKS. Letters: S steps.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import counted, listed
from evenload.pipeline.records import provenance
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.shards import read_scalars
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.axes import ABSENT, TOKENS, UNNAMED, leaves_of, partition, value_of
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Verdict, grouped, is_comparable

LEAKED = 0.01  # share of held-out words in training from which it is a finding
DEAD, EVEN = "dead_tenth", 1.0  # dead experts are a surprise below this MaxVio
WINDOW = 50  # steps before a step to which its loss is compared
SPIKE = 10  # robust standard deviations above their median, and at least RISE
RISE = 0.05
NAMES = 3  # most trials that a finding lists


class Finding(NamedTuple):
    """One reason to distrust the answer."""

    name: str  # of the check, as in CHECKS
    evidence: str
    remedy: str


class Facts(NamedTuple):
    """Everything that the checks look at."""

    answer: Answer
    trials: Sequence[TrialRecord]
    losses: Mapping[str, NDArray[np.float64]]  # complete trials: loss of every recorded step
    corpora: Mapping[str, str]  # digest -> digest of the corpus that it was trained on
    corpora_now: Mapping[str, str]  # digest -> digest of what the same sources hold now


Found = Iterator[tuple[str, str]]  # evidence and remedy


def read_facts(
    settings: Settings,
    answer: Answer,
    trials: Sequence[TrialRecord],
    corpora_now: Mapping[str, str] | None = None,
) -> Facts:
    """The facts of a sweep from its records.

    Args:     corpora_now: by digest; None: whether a corpus has changed since is not checked
    """
    done = [trial for trial in trials if is_comparable(trial)]
    folders = {trial.digest: readable_dir(settings, trial.digest) for trial in done}
    recorded = {digest: provenance.read(folder) for digest, folder in folders.items()}
    return Facts(
        answer,
        trials,
        losses={digest: read_scalars(folder)["loss"] for digest, folder in folders.items()},
        corpora={digest: rows[-1]["corpus"] for digest, rows in recorded.items()
                 if rows and "corpus" in rows[-1]},
        corpora_now=corpora_now or {},
    )  # fmt: skip


def audit(facts: Facts) -> list[Finding]:
    """All findings, in the order of CHECKS. A pure function."""
    return [
        Finding(name, evidence, remedy)
        for name, check in CHECKS.items()
        for evidence, remedy in check(facts)
    ]


def audit_trials(facts: Facts) -> list[Finding]:
    """The findings about these trials alone; `facts` has no other trials of their sweep."""
    return [finding for finding in audit(facts) if finding.name not in OF_SWEEPS]


def _one_seed(facts: Facts) -> Found:
    places = [place.place for place in facts.answer.places if place.seeds == 1 < place.compared]
    if places:
        yield (
            f"There is one seed at {listed(places)}, so that no difference in loss can be shown.",
            f"evenload sweep extend {facts.answer.sweep_id} --seeds 4",
        )


def _seed_noise(facts: Facts) -> Found:
    for place in facts.answer.places:
        rivals = [s.mean_loss for s in place.settings if s.verdict is not Verdict.LEAKS]
        spread = max(rivals, default=0.0) - min(rivals, default=0.0)
        if place.compared > 1 and spread < 2 * place.noise / math.sqrt(place.seeds):
            yield (
                f"{place.place}: all mean losses lie within {spread:.4f} {place.unit.name}, and "
                f"the noise of a run is {place.noise:.4f}.",
                "Train longer or with more seeds before you choose by loss.",
            )


def _edge(facts: Facts) -> Found:
    """The least loss at the smallest or largest of at least three values of a number."""
    for (place, kind), rows in _by_place_and_kind(facts).items():
        best = min(rows, key=lambda row: fmean(trial.figure(LOSS) for trial in row))
        for key, values in _numbers(rows).items():
            value = value_of(best[0].spec, key)
            if len(values) > 2 and value in (min(values), max(values)):
                side = "smallest" if value == min(values) else "largest"
                yield (
                    f"{place}: {kind} has its least loss at {key}={value:g}, the {side} of "
                    f"{len(values)} values.",
                    f"Add {'smaller' if side == 'smallest' else 'larger'} values to {key}.",
                )


def _confounded(facts: Facts) -> Found:
    """Keys of which each tells the trials apart in the same way as another."""
    trees = [dict(leaves_of(trial.spec)) for trial in facts.trials]
    same: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for key in dict.fromkeys(key for tree in trees for key in tree):
        if not key.startswith(("balancer.", *UNNAMED)):
            same[partition([tree.get(key, ABSENT) for tree in trees])].append(key)
    rules = partition([trial.label for trial in facts.trials])
    for parts, keys in same.items():
        names = [*keys, *(["balancer"] if parts == rules else [])]
        if len(set(parts)) > 1 < len(names):
            yield (
                f"{listed(names)} change together, so that their effects cannot be told apart.",
                "Vary one of them alone, or read the answer as one about all of them.",
            )


def _tokens(facts: Facts) -> Found:
    budgets: dict[str, set[int]] = defaultdict(set)
    for trial in _done(facts):
        budgets[facts.answer.axes.place(trial)].add(
            math.prod(int(value_of(trial.spec, key)) for key in TOKENS)
        )
    for place, found in budgets.items():
        if len(found) > 1:
            shown = " or ".join(f"{budget:,}" for budget in sorted(found)[:NAMES])
            yield (
                f"{place}: trials trained on {shown} tokens are compared.",
                "Put train.steps into answer.per, or give all trials the same budget.",
            )


def _records(facts: Facts) -> Found:
    """Steps whose shards are missing or damaged, so that nothing about them can be checked."""
    short = [
        f"{facts.answer.axes.name(trial)}, {len(loss_S):,} of {steps:,} steps"
        for trial in _done(facts)
        if len(loss_S := facts.losses[trial.digest]) < (steps := trial.spec["train"]["steps"])
    ]
    if short:
        yield (
            f"Records of {counted(len(short), 'trial')} are incomplete here: {_some(short)}.",
            "Set EVENLOAD_MIRROR_URL or EVENLOAD_HOME to where they are, or restore a backup.",
        )


def _not_converged(facts: Facts) -> Found:
    """The loss still falls by more than the margin in the last tenth of the steps."""
    tolerance, falling = facts.answer.terms.objective.loss_tolerance, []
    for trial in _done(facts):
        loss_S = facts.losses[trial.digest]
        tenth = len(loss_S) // 10
        if tenth < 2:
            continue
        before, last = loss_S[-2 * tenth : -tenth].mean(), loss_S[-tenth:].mean()
        if before - last > tolerance * last:
            falling.append((1 - last / before, trial))
    if falling:
        most = max(share for share, _ in falling)
        yield (
            f"The training loss of {counted(len(falling), 'trial')} still fell in the last tenth "
            f"of the steps, by up to {most:.1%}; the margin is {tolerance:.1%}.",
            "Train longer: the order of settings may change.",
        )


def _spikes(facts: Facts) -> Found:
    found = []
    for trial in _done(facts):
        if steps := spikes(facts.losses[trial.digest]):
            found.append(f"{facts.answer.axes.name(trial)} at step {steps[0]}")
    if found:
        yield (
            f"The training loss of {counted(len(found), 'trial')} jumped up: {_some(found)}.",
            "Lower the learning rate, or lengthen its warm-up.",
        )


def spikes(loss_S: NDArray[np.float64]) -> list[int]:
    """Steps, from 1, whose loss is far above that of the 50 steps before them."""
    if len(loss_S) <= WINDOW:
        return []
    before_SW = sliding_window_view(loss_S, WINDOW)[:-1]
    middle_S = np.median(before_SW, axis=1)
    deviation_S = 1.4826 * np.median(np.abs(before_SW - middle_S[:, None]), axis=1)
    above_S = loss_S[WINDOW:] - middle_S
    is_spike_S = (above_S > SPIKE * deviation_S) & (above_S > RISE * middle_S)
    return [int(step) for step in np.flatnonzero(is_spike_S) + WINDOW + 1]


def _dead(facts: Facts) -> Found:
    dead = [
        trial for trial in _done(facts) if trial.figure(DEAD) > 0 and trial.figure(IMBALANCE) < EVEN
    ]
    if dead:
        worst = max(dead, key=lambda trial: trial.figure(DEAD))
        yield (
            f"{counted(len(dead), 'trial')} with MaxVio below {EVEN:g} "
            f"{'has' if len(dead) == 1 else 'have'} dead experts, up to "
            f"{METRICS[DEAD].shown(worst.figure(DEAD))}: {facts.answer.axes.name(worst)}.",
            "MaxVio looks at the fullest expert only; look at the loads on the Run page.",
        )


def _leaked(facts: Facts) -> Found:
    share = max((trial.result.get("leaked_share", 0.0) for trial in facts.trials), default=0.0)
    if share > LEAKED:
        yield (
            f"{share:.1%} of the held-out words also stand in training, in runs of 50 words.",
            "Remove repeated passages from the corpus; losses are too low by an unknown amount.",
        )


def _corpus_changed(facts: Facts) -> Found:
    changed = [digest for digest, now in facts.corpora_now.items()
               if facts.corpora.get(digest, now) != now]  # fmt: skip
    if changed:
        yield (
            f"The data of {counted(len(changed), 'trial')} changed after the training.",
            "`evenload sweep run` with the same file trains on the new data as new trials.",
        )


def _done(facts: Facts) -> list[TrialRecord]:
    return [trial for trial in facts.trials if is_comparable(trial)]


def _by_place_and_kind(facts: Facts) -> dict[tuple[str, str], list[list[TrialRecord]]]:
    """The trials of each setting that is compared, by place and rule."""
    found: dict[tuple[str, str], list[list[TrialRecord]]] = defaultdict(list)
    by_place = grouped(_done(facts), facts.answer.stage, facts.answer.axes)
    for place, groups in by_place.items():
        for rows in groups.values():
            found[place, rows[0].spec["balancer"]["kind"]].append(rows)
    return found


def _numbers(rows: Sequence[Sequence[TrialRecord]]) -> dict[str, list[float]]:
    """The different values of each number in which settings differ."""
    found: dict[str, set[float]] = defaultdict(set)
    for key in dict.fromkeys(key for row in rows for key, _ in leaves_of(row[0].spec)):
        if key.startswith(UNNAMED):
            continue
        for value in (value_of(row[0].spec, key) for row in rows):
            if isinstance(value, int | float) and not isinstance(value, bool):
                found[key].add(value)
    return {key: sorted(values) for key, values in found.items()}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES} more" if len(names) > NAMES else ""
    return "; ".join(names[:NAMES]) + more


CHECKS: dict[str, Callable[[Facts], Found]] = {
    "one seed": _one_seed,
    "within seed noise": _seed_noise,
    "optimum at the edge": _edge,
    "confounded axes": _confounded,
    "unequal tokens": _tokens,
    "records missing": _records,
    "not converged": _not_converged,
    "loss spikes": _spikes,
    "dead experts": _dead,
    "held-out text seen in training": _leaked,
    "corpus changed since": _corpus_changed,
}

# Findings that need all trials of a sweep.
OF_SWEEPS = ("one seed", "within seed noise", "optimum at the edge", "confounded axes")
