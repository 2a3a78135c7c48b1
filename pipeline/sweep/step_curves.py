"""What a sweep says about step sizes: curves of every rule that has several, and advised ranges."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from evenload.pipeline.figures.step_curves import (
    Motion,
    Role,
    StepCurve,
    StepPoint,
    advised_sign_steps,
    motion,
)
from evenload.pipeline.records.mirror import readable_dir
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.places import PlaceAnswer
from evenload.pipeline.sweep.setting import Setting, is_comparable

ADVISED_RULE = "sign"  # with a constant step
OWN_GAIN = ("self_tuned", "kalman")  # rules whose moves show the gain that theory advises
LAST_STEPS = 200  # of a run, from which the pace of its biases is read
NOTE = (
    "Means over seeds with 95 % intervals (Student's t). A diamond is the named setting or, where "
    "there is no claim, the most even one so far; squares cannot be told apart from it in "
    "evenness. Dashed: by chance. Shaded, for constant steps of `sign`: the range that theory "
    "advises from recorded biases; a dotted line where only one end is known."
)
MOST_TRIALS = 3  # of a setting, whose biases are read


def step_curves(answer: Answer, figure: str) -> list[StepCurve]:
    """One curve per rule and place that has at least two step sizes above 0.

    With a confirm stage the figures are those of the search, which has all step sizes.

    Args:     figure: a key of `figures.step_curves.FIGURES`
    """
    places = {place.place: place for place in answer.places}
    found: dict[tuple[str, str], list[StepPoint]] = defaultdict(list)
    for setting in answer.tuned or answer.settings:
        if setting.step and not setting.is_yardstick:
            point = _point(setting, figure, _role(setting, places.get(setting.place)))
            if not math.isnan(point.mean):
                found[_rule(setting), setting.place].append(point)
    return [
        StepCurve(rule, place, tuple(sorted(points)))
        for (rule, place), points in found.items()
        if len({point.step for point in points}) > 1
    ]


def _rule(setting: Setting) -> str:
    """The label without the step size. `sign 0.1 schedule=inverse` is another rule than `sign`."""
    return " ".join(word for word in setting.label.split() if word != f"{setting.step:g}")


def advised_ranges(
    settings: Settings, answer: Answer, trials: Sequence[TrialRecord]
) -> dict[str, tuple[float, float]]:
    """Place -> the step sizes of the sign rule that theory advises, from recorded biases.

    A place without records of biases is left out.
    """
    found = {}
    for place in answer.places:
        here = [t for t in trials if is_comparable(t) and answer.axes.place(t) == place.place]
        if place.evenest is None:
            continue
        chosen = [t for t in here if answer.axes.setting(t) == place.evenest.label]
        arrived = _motions(settings, chosen)
        paced = _motions(settings, [t for t in here if t.spec["balancer"]["kind"] in OWN_GAIN])
        reach = fmean(one.reach for one in arrived) if arrived else 0.0
        if reach > 0:
            pace = fmean(one.pace for one in paced) if paced else math.nan
            steps = int(chosen[0].spec["train"]["steps"])
            found[place.place] = advised_sign_steps(reach, pace, steps)
    return found


def _motions(settings: Settings, trials: Sequence[TrialRecord]) -> list[Motion]:
    found = []
    for trial in trials[:MOST_TRIALS]:
        first = max(1, int(trial.spec["train"]["steps"]) - LAST_STEPS)
        history = read_history(readable_dir(settings, trial.digest), first=first, columns=["bias"])
        found.append(motion(history.bias_SLE))
    return [one for one in found if one is not None]


def _point(setting: Setting, figure: str, role: Role) -> StepPoint:
    found = {"loss": setting.loss, "idle": setting.idle_percent}.get(figure, setting.log_over_floor)
    shown = math.exp if figure == "over_floor" else float
    low, high = (math.nan if end is None else shown(end) for end in (found.low, found.high))
    step, mean = setting.step or 0.0, shown(found.mean)
    return StepPoint(step, mean, low, high, found.seeds, role, setting.digest)


def _role(setting: Setting, place: PlaceAnswer | None) -> Role:
    if place is None or place.evenest is None:
        return "other"
    if setting.label == place.evenest.label:
        return "most even so far" if place.named is None else "named"
    return "tied in evenness" if setting.label in place.even_ties else "other"
