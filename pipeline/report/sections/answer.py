"""The answer: the recommended setting, its figures, and how far to trust them."""

from __future__ import annotations

from evenload.pipeline.figures.metrics import Metric, in_grids
from evenload.pipeline.figures.wording import NONE, counted, listed, number
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Answer, Block, Points, Section, Tile, Tiles, Tone
from evenload.pipeline.report.sections.cost import cost_by_setting, steady_shares
from evenload.pipeline.states import Stage, SweepState, TrialState
from evenload.pipeline.sweep.setting import Setting

FEW_SEEDS = 3


def answer(evidence: Evidence) -> Section:
    found = evidence.answer
    blocks: list[Block] = [Answer(found.sentence, _tone(evidence))]
    if found.best is not None:
        blocks.append(Tiles(_tiles(evidence, found.best, found.control)))
    limits = _limits(evidence)
    if limits:
        blocks.append(Points("How far to trust it", limits))
    return Section("Answer", blocks)


def _tone(evidence: Evidence) -> Tone:
    if evidence.answer.best is None:
        return "bad" if evidence.sweep.state is SweepState.FINISHED else "plain"
    return "good" if evidence.answer.is_confirmed else "warning"


def _tiles(evidence: Evidence, best: Setting, control: Setting | None) -> list[Tile]:
    tiles = [
        Tile(
            best.shown(metric.name),
            _tile_name(metric, best),
            f"without balancing {control.shown(metric.name)}" if control is not None else "",
        )
        for metric in in_grids()
    ]
    return [*tiles, *_waiting_tile(evidence, best, control)]


def _tile_name(metric: Metric, best: Setting) -> str:
    name = metric.title if metric.is_share else f"{metric.title}, {metric.unit}"
    chance = NONE if metric.floor is None else best.shown(metric.floor)
    return name if chance == NONE else f"{name}; by chance {chance}"


def _waiting_tile(evidence: Evidence, best: Setting, control: Setting | None) -> list[Tile]:
    """The share of time that imbalance costs on a cluster, at the largest computed size."""
    by_setting = cost_by_setting(evidence)
    shares = steady_shares(by_setting[best.label])
    if not shares:
        return []
    size = max(shares)
    other = steady_shares(by_setting[control.label]).get(size) if control is not None else None
    note = "" if other is None else f"without balancing {number(other, '.1%')}"
    return [
        Tile(number(shares[size], ".1%"), f"of a step lost at {size} expert-parallel ranks", note)
    ]


def _limits(evidence: Evidence) -> list[str]:
    """Objections that a sceptic could raise; empty if there are none."""
    found, limits = evidence.answer, []
    open_trials = sum(not trial.state.is_final for trial in evidence.trials)
    if open_trials:
        limits.append(f"{counted(open_trials, 'trial')} of {len(evidence.trials)} still to come")
    failed = sum(trial.state is TrialState.FAILED for trial in evidence.trials)
    if failed:
        limits.append(f"{counted(failed, 'trial')} failed; see below")
    limits += _mixtures(evidence)
    if found.best is None:
        return limits
    if found.stage is Stage.TUNE:
        limits.append(_unconfirmed(evidence))
    seeds = found.best.loss.seeds
    if seeds == 1:
        limits.append("one seed gives no interval, so losses cannot be told apart")
    elif seeds < FEW_SEEDS:
        limits.append(f"an interval from {seeds} seeds is wide")
    if found.control is None:
        limits.append("the sweep has no trial without balancing to compare with")
    if found.best.violates:
        limits.append(f"it breaks {listed(list(found.best.violates))}")
    return limits


def _unconfirmed(evidence: Evidence) -> str:
    luck = "these are figures of the search itself, and the best of several is partly luck"
    if evidence.spec is not None and evidence.spec.confirm is not None:
        return f"{luck}; the confirm stage with fresh seeds is still to come"
    return f"{luck}; a confirm stage with fresh seeds (`confirm:` in the sweep) would tell"


def _mixtures(evidence: Evidence) -> list[str]:
    """Reasons why trials may not be comparable or reproducible."""
    found = [
        f"trials ran on {len(evidence.origins[key])} different {what}; see the end of the report"
        for key, what in (
            ("commit", "commits"),
            ("device", "devices"),
            ("version.torch", "versions of torch"),
        )
        if len(evidence.origins.get(key, ())) > 1
    ]
    if any(commit.endswith("-dirty") for commit in evidence.origins.get("commit", ())):
        found.append("the code had changes that were not committed")
    return found
