"""Compares figures of the search with those of fresh seeds; targets."""

from evenload.pipeline.figures.wording import NONE, duration, number
from evenload.pipeline.report.evidence import Evidence
from evenload.pipeline.report.page import Block, Section, Table, Text, filled, present
from evenload.pipeline.states import Stage


def confirmation(evidence: Evidence) -> Section | None:
    blocks = present(_tune_against_confirm(evidence), _targets(evidence))
    return Section("Does it hold?", blocks) if blocks else None


def _tune_against_confirm(evidence: Evidence) -> Block | None:
    found = evidence.answer
    planned = evidence.spec and evidence.spec.confirm
    if found.stage is not Stage.CONFIRM:
        return Text("The confirm stage has not run yet.") if planned else None
    tuned = {setting.name: setting for setting in found.tuned}
    rows = [
        (
            setting.name,
            format(tuned[setting.name].loss, ".3f") if setting.name in tuned else NONE,
            format(setting.loss, ".3f"),
            format(tuned[setting.name].imbalance, ".2f") if setting.name in tuned else NONE,
            format(setting.imbalance, ".2f"),
        )
        for setting in found.settings
    ]
    columns = ("<setting", "bits per byte\ntune", "bits per byte\nconfirm")
    return Table(
        (*columns, "MaxVio\ntune", "MaxVio\nconfirm"),
        rows,
        "The settings were chosen by their tune figures, so the best of those are partly luck. "
        "Confirm figures have fresh seeds"
        + (" and another corpus." if planned and planned.data else "."),
        title="Tune against confirm",
    )


def _targets(evidence: Evidence) -> Table | None:
    rows = [
        (
            row.label,
            row.place,
            number(row.target_loss),
            f"{row.reached} of {row.trials}",
            "not reached" if row.tokens is None else f"{row.tokens:,.0f}",
            "not reached" if row.seconds is None else duration(row.seconds),
            format(row.final_loss, ".3f"),
        )
        for row in evidence.answer.targets
    ]
    columns = ("<setting", "<place", "target\nloss", "reached", "tokens\nto target")
    table = Table(
        (*columns, "time\nto target", "loss at\nthe budget"),
        rows,
        "Losses are those of learning curves on held-out text, in nats per token. Tokens and "
        "time are medians over trials.",
        title="Time to a target loss",
    )
    return filled(table)
