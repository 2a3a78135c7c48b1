"""The answer: what can be claimed at each place, its figures, and how far to trust them."""

from evenload.pipeline.figures.metrics import Metric, in_grids
from evenload.pipeline.figures.wording import NONE, counted, number
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Answer, Block, Points, Section, Tile, Tiles, Tone
from evenload.pipeline.report.sections.cost import cost_by_setting, steady_shares
from evenload.pipeline.states import Stage, SweepState, TrialState
from evenload.pipeline.sweep.answer_text import sentences
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import Setting


def answer(evidence: Evidence) -> Section:
    tone = _tone(evidence)
    blocks: list[Block] = [Answer(text, tone) for text in sentences(evidence.answer)]
    for place in evidence.answer.places:
        if place.named is not None:
            blocks.append(Tiles(_tiles(evidence, place, place.named)))
    limits = _limits(evidence)
    if limits:
        blocks.append(Points("How far to trust it", limits))
    return Section("Answer", blocks)


def _tone(evidence: Evidence) -> Tone:
    if not evidence.answer.named:
        return "bad" if evidence.sweep.state is SweepState.FINISHED else "plain"
    return "good" if evidence.answer.is_confirmed else "warning"


def _tiles(evidence: Evidence, place: PlaceAnswer, named: Setting) -> list[Tile]:
    control = place.control
    first = Tile(named.label, f"at {place.place}", f"{counted(named.seeds, 'seed')}")
    tiles = [
        Tile(
            named.shown(metric.name),
            _tile_name(metric, named),
            f"without balancing {control.shown(metric.name)}" if control is not None else "",
        )
        for metric in in_grids()
    ]
    return [first, *tiles, *_waiting_tile(evidence, named, control)]


def _tile_name(metric: Metric, named: Setting) -> str:
    name = metric.title if metric.is_share else f"{metric.title}, {metric.unit}"
    chance = NONE if metric.floor is None else named.shown(metric.floor)
    return name if chance == NONE else f"{name}; by chance {chance}"


def _waiting_tile(evidence: Evidence, named: Setting, control: Setting | None) -> list[Tile]:
    """The share of time that imbalance costs on a cluster, at the largest computed size."""
    costs = cost_by_setting(evidence)
    shares = steady_shares(costs[named.name])
    if not shares:
        return []
    size = max(shares)
    other = steady_shares(costs[control.name]).get(size) if control is not None else None
    note = "" if other is None else f"without balancing {number(other, '.1%')}"
    return [
        Tile(number(shares[size], ".1%"), f"of a step lost at {size} expert-parallel ranks", note)
    ]


def _limits(evidence: Evidence) -> list[str]:
    """Objections that a sceptic could raise; empty if there are none."""
    found, limits = evidence.answer, []
    failed = sum(trial.state is TrialState.FAILED for trial in evidence.trials)
    if failed:
        limits.append(f"{counted(failed, 'trial')} failed; see below")
    limits += _mixtures(evidence)
    if not found.places:
        return limits
    if found.stage is Stage.TUNE and not found.awaits_confirm:
        limits.append(
            "there is no confirm stage: the figures that chose a setting are partly its luck, and "
            "fresh seeds (`confirm:` in the sweep) would show them without it"
        )
    if any(not place.is_pooled for place in found.places):
        limits.append("the noise of loss differs between settings, so intervals are wider")
    if any(place.control is None for place in found.places):
        limits.append("there is no trial without balancing to compare with")
    return limits


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
