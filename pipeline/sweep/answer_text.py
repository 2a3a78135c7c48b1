"""Puts the answer of a sweep into sentences. All figures are in the tables of the answer, too."""

import math
from collections.abc import Sequence

from evenload.pipeline.figures.metrics import METRICS
from evenload.pipeline.figures.wording import counted, listed
from evenload.pipeline.sweep.answer import Answer
from evenload.pipeline.sweep.places import MAY_BE_NAMED, SMALL, TOP, PlaceAnswer
from evenload.pipeline.sweep.setting import IMBALANCE, LOSS, Setting, Verdict

NAMES = 5  # most settings that a sentence lists


def sentence(answer: Answer) -> str:
    """The whole answer as one paragraph."""
    return " ".join(sentences(answer))


def sentences(answer: Answer) -> list[str]:
    """One sentence group for the state, each place, and one setting for all."""
    found = [_provisional(answer)] if answer.is_provisional else []
    found += [_place(answer, place) for place in answer.places]
    if not answer.places:
        found.append("There is no trial to compare yet.")
    elif answer.asks_for_all and not answer.is_provisional:
        found.append(_for_all(answer))
    return found


def chip(answer: Answer, place: PlaceAnswer) -> tuple[str, str]:
    """The verdict at a place in one or two words, and what follows in one line."""
    rivals = place.having(*MAY_BE_NAMED)
    if place.named is not None:
        ties = f"; tied with {_listed(place.even_ties)}" if place.even_ties else ""
        return "claim", f"take {place.named.label}, MaxVio {_vio(place.named)}{ties}"
    if not rivals:
        return "waiting", "no setting that may be named is complete"
    best = place.evenest
    assert best is not None
    so_far = f"most even so far {best.label}, MaxVio {_vio(best)}"
    if answer.is_provisional:
        return "provisional", so_far
    if place.compared < 2:
        return "no claim", f"{so_far}; nothing to compare it with"
    if place.even_ties:
        so_far += f"; {1 + len(place.even_ties)} tie"
    more = (
        counted(place.more_seeds or 0, "more seed") if place.more_seeds else "over 200 more seeds"
    )
    if math.isnan(place.noise):
        return "one seed", f"{so_far}; {more} would measure the noise of the loss"
    return "no claim", f"{so_far}; {more} would settle the loss"


def method(answer: Answer) -> str:
    """How claims are made, for the notes of tables."""
    terms = answer.terms
    rounds = f", whose alpha {terms.rounds} rounds share" if terms.rounds > 1 else ""
    return (
        f"Above the best: bound on the loss minus the least loss of the others at this place; a "
        f"setting passes if it is within the margin, {100 * terms.objective.loss_tolerance:g} % "
        f"of the least loss. The claims at a place are all true with a probability of at least "
        f"{100 * (1 - terms.alpha):.4g} % (multiple comparisons with the best, Hsu 1984; seeds are "
        f"blocks; look {terms.look}{rounds}). Against none: difference in loss with a simultaneous "
        "95 % interval (Dunnett 1955). Over floor: geometric mean of MaxVio over its floor, "
        "compared by Tukey's simultaneous intervals. ± of a mean: 95 % interval over seeds "
        "(Student's t)."
    )


def place_note(place: PlaceAnswer) -> str:
    """The figures behind the claims of one place."""
    if place.compared < 2:
        return f"{place.place}: {counted(place.compared, 'setting')} to compare."
    unknown = f"unknown, because {_no_noise(place)} it"
    noise = unknown if math.isnan(place.noise) else f"{place.noise:.4f}"
    if not place.is_pooled:
        noise += ", unequal between settings and therefore moderated"
    text = (
        f"{place.place}: margin {place.margin:.3f} {place.unit.name}; noise of a run {noise}; "
        f"{counted(place.compared, 'setting')} compared, {_seeds(place)}."
    )
    if math.isfinite(place.detectable):
        text += f" {_power(place)}"
    left = {**place.left_out, **place.dropped}
    listed_ = "; ".join(f"{label}: {why}" for label, why in left.items())
    return f"{text} Left out: {listed_}." if left else text


def _power(place: PlaceAnswer) -> str:
    """What these seeds can show, and how many a small difference would take."""
    text = f"A difference of {place.detectable:.3f} in loss would be found in 80 % of such sweeps"
    if place.detectable <= SMALL:
        return f"{text}."
    seeds = "more than 200" if place.seeds_for_small is None else f"about {place.seeds_for_small}"
    return f"{text}; one of {SMALL * place.unit.factor:.3g} would need {seeds} seeds."


def _provisional(answer: Answer) -> str:
    text = f"Provisional: {answer.completed} of {answer.trials} trials are over"
    if answer.awaits_confirm:
        text += ", and the confirm stage with fresh seeds is still to come"
    if answer.is_race_on:
        text += ", and the race goes on"
    return f"{text}, so nothing is claimed yet."


def _place(answer: Answer, place: PlaceAnswer) -> str:
    where = f"At {place.place}" if place.place != "all trials" else "Over all trials"
    rivals = place.having(*MAY_BE_NAMED)
    if place.compared < 2 or not rivals:
        return _nothing(where, place)
    if place.named is not None:
        return _claim(where, answer, place, place.named)
    least = place.least
    assert least is not None
    seeds = counted(least.seeds, "seed")
    so_far = f"least loss so far: {least.label} with {_loss(place, least)} ({seeds})"
    if answer.is_provisional:
        return f"{where}, {so_far}."
    if math.isnan(place.noise):
        return (
            f"{where}, no claim about loss: {_no_noise(place)} how far losses are chance. "
            f"L{so_far[1:]}. {_evenest(place, rivals)}{_unbalanced(place)} "
            f"{place.more_seeds} more seeds would measure the noise: {_command(answer, place)}."
        )
    possible = place.having(Verdict.POSSIBLE)
    return (
        f"{where}, no claim about loss. L{so_far[1:]}. {_count(len(possible), len(rivals))} may be "
        f"within the margin of {_margin(answer, place)} of the least loss: {_names(possible)}. "
        f"{_evenest(place, rivals)}{_unbalanced(place)} {_remedy(answer, place)}"
    )


def _claim(where: str, answer: Answer, place: PlaceAnswer, named: Setting) -> str:
    among = f"the {place.compared} settings"
    if answer.is_confirmed:
        among = f"the {place.compared} confirmed settings, control included"
    elif place.dropped:
        raced = place.compared + len(place.dropped)
        among = f"the {place.compared} settings that remain of {raced} in the race"
    text = (
        f"{where}, take {named.label}: its loss of {_loss(place, named)} is within the "
        f"margin of {_margin(answer, place)} of the best of {among} (above it by at most "
        f"{named.above_best:.3f}; {counted(named.seeds, 'seed')}), and "
        f"{_most_even(place)} {_vio(named)}."
    )
    if place.even_ties:
        text += f" It cannot be told apart in evenness from {_listed(place.even_ties)}."
    text += _unbalanced(place)
    if place.better_set_aside is not None:
        text += (
            f" {place.better_set_aside or 'None'} of the settings that were not confirmed may have "
            "a loss that is lower by more than the margin."
        )
    return text


def _no_noise(place: PlaceAnswer) -> str:
    if place.seeds > 1:
        return "settings share too few seeds to show"
    return "one seed does not show"


def _seeds(place: PlaceAnswer) -> str:
    """`5 seeds`, or `4 to 5 seeds` if some settings have more."""
    most = max(one.seeds for one in place.having(*MAY_BE_NAMED, Verdict.CONTROL))
    more = counted(most, "seed")
    return more if most == place.seeds else f"{place.seeds} to {more}"


def _unbalanced(place: PlaceAnswer) -> str:
    """What training without balancing gave, for comparison."""
    if (control := place.control) is None:
        return ""
    return (
        f" Without balancing MaxVio is {METRICS[IMBALANCE].shown(control.max_vio)} at "
        f"{_loss(place, control)}."
    )


def _most_even(place: PlaceAnswer) -> str:
    passing = len(place.having(Verdict.NAMED, Verdict.TIED, Verdict.PASSES))
    if passing == 1:
        return "it is the only one for which that is shown. Its MaxVio is"
    return f"of the {passing} for which that is shown it has the least MaxVio for its floor:"


def _nothing(where: str, place: PlaceAnswer) -> str:
    broken = place.having(Verdict.VIOLATES)
    if broken:
        best = broken[0]
        return (
            f"{where}, no claim: every setting breaks a constraint; the most even one is "
            f"{best.label}, whose {' and '.join(best.violates)}."
        )
    left = "; ".join(f"{label}: {why}" for label, why in place.left_out.items())
    return (
        f"{where}, no claim: it needs two settings with figures, at least one of which is no "
        f"control{f' ({left})' if left else ''}."
    )


def _evenest(place: PlaceAnswer, rivals: Sequence[Setting]) -> str:
    best = min(rivals, key=lambda setting: setting.over_floor)
    text = f"Most even: {best.label} with MaxVio {_vio(best)}"
    if len(rivals) == 1:
        return f"{text}."
    source = (
        "at a noise that is assumed, a factor of 1.4 per run, " if place.is_noise_assumed else ""
    )
    apart = f"from {_listed(place.even_ties)}" if place.even_ties else ""
    shown = f"it cannot be told apart {apart}" if apart else "it is more even than all others"
    return f"{text}; {source}{shown}."


def _remedy(answer: Answer, place: PlaceAnswer) -> str:
    if place.more_seeds is None:
        return (
            "More than 200 seeds would be needed to settle it; longer runs, or a larger margin "
            "(`objective.loss_tolerance`), settle it sooner."
        )
    text = (
        f"About {counted(place.more_seeds, 'more seed')} per setting would settle it: "
        f"{_command(answer, place)}."
    )
    top = place.seeds_for_top
    if answer.is_confirmed or top is None or top * (TOP + 1) >= place.more_seeds * place.compared:
        return text
    return (
        f"{text} With fewer trials, a claim among the best {TOP} alone needs about "
        f"{counted(top, 'fresh seed')}: `evenload sweep extend {answer.sweep_id} --seeds {top} "
        f"--top {TOP}`."
    )


def _command(answer: Answer, place: PlaceAnswer) -> str:
    return f"`evenload sweep extend {answer.sweep_id} --seeds {place.more_seeds}`"


def _for_all(answer: Answer) -> str:
    if answer.for_all is None:
        return f"No single setting is shown to be good at all {len(answer.places)} places."
    return f"One setting for all: {answer.for_all} is within the margin at each of these places."


def _margin(answer: Answer, place: PlaceAnswer) -> str:
    return f"{place.margin:.3f} ({100 * answer.terms.objective.loss_tolerance:g} %)"


def _loss(place: PlaceAnswer, setting: Setting) -> str:
    return f"{METRICS[LOSS].shown(setting.loss.mean)} {place.unit.name}"


def _vio(setting: Setting) -> str:
    floor = setting.figures.get("max_vio_floor", math.nan)
    over = "" if math.isnan(floor) else f", {setting.over_floor:.1f} times its floor of {floor:.2f}"
    return f"{METRICS[IMBALANCE].shown(setting.max_vio)}{over}"


def _count(some: int, of: int) -> str:
    return "Every setting" if some == of else f"{some} of {of} settings"


def _names(settings: Sequence[Setting]) -> str:
    return _listed([setting.label for setting in settings])


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMES
    return listed([*names[:NAMES], f"{rest} others"] if rest > 1 else list(names))
