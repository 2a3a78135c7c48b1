"""What tools return: typed rows in pages, with all text as plain data.

Names, labels, notes and errors come from users and their trials.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from evenload.pipeline.escaping import for_agent

Row = TypeVar("Row")


Text = Annotated[str, AfterValidator(for_agent)]
Figure = float | None  # JSON has null for what is not known or not finite


class Result(BaseModel):
    """A row can be read from the attributes of a record with the same names."""

    model_config = ConfigDict(frozen=True, from_attributes=True, use_attribute_docstrings=True)


class Page(Result, Generic[Row]):
    rows: list[Row]
    total: int
    """Rows of all pages."""
    next_offset: int | None
    """`offset` of the next page; null: this is the last one."""
    note: Text = ""


def page_of(
    found: Sequence[Any], limit: int, offset: int, row: Callable[[Any], Row], note: str = ""
) -> Page[Row]:
    """The rows from `offset` on, at most `limit`."""
    end = offset + limit
    rows, after = [row(one) for one in found[offset:end]], end if end < len(found) else None
    return Page(rows=rows, total=len(found), next_offset=after, note=note)


class SweepRow(Result):
    sweep_id: str
    name: Text
    state: str
    created_at: datetime
    note: Text | None
    trials: dict[str, int] = {}
    """Number of trials by state."""


class TrialRow(Result):
    digest: str
    setting: Text
    """Its rule with every other value that varies, except the seed."""
    place: Text
    """The values for which the sweep has an answer of its own."""
    seed: int
    stage: str
    state: str
    figures: dict[str, Figure]
    error: Text
    """Last line of what it raised."""


class Estimate(Result):
    mean: Figure
    half: Figure
    """Half of the 95 % interval; null with one seed."""


class SettingRow(Result):
    """Means of one setting at one place over its seeds. Losses are in bits per byte."""

    label: Text
    place: Text
    stage: str
    seeds: int
    verdict: str
    loss: Estimate
    imbalance: Estimate
    """MaxVio: load of the fullest expert over the fair share, minus one."""
    over_floor: Figure
    """MaxVio over what chance alone gives."""
    above_best_low: Figure
    above_best: Figure
    """The loss is above the least one of the others by at least, and by at most."""
    against_none: Estimate | None
    """Difference in loss to training without balancing; all of a place hold together."""
    violates: list[Text]


class AnswerPage(Page[Text]):
    """The sentences of the answer in `rows`, with its state."""

    named: dict[str, Text]
    """Place -> the setting that can be claimed; places without a claim are missing."""
    is_provisional: bool
    is_confirmed: bool
    """Whether the figures have fresh seeds, and the claim is among the confirmed settings."""
    method: Text


class FindingRow(Result):
    name: str
    evidence: Text
    remedy: Text


class DifferenceRow(Result):
    """One setting in two sweeps: the second minus the first. Intervals of a place hold together."""

    label: Text
    place: Text
    loss: Estimate
    """Bits per byte."""
    log_over_floor: Estimate
    """Natural logarithm of MaxVio over its floor."""
    is_paired: bool
    """Whether the intervals are over the seeds that both sweeps have."""


class ComparisonPage(Page[DifferenceRow]):
    """The settings that both sweeps have in `rows`, and what could not be compared."""

    repeated: list[Text]
    """Settings whose trials are the same in both sweeps."""
    only_first: list[Text]
    only_second: list[Text]
    left_out: dict[str, Text]
    """Common setting -> why it cannot be compared."""


class Advised(Result):
    seen: dict[str, Any]
    """What was estimated from the recorded scores."""
    rows: list[dict[str, Any]]
    """Rules in the form of a spec, each with the reason, and whether theory refuses it."""


class Done(Result):
    """The sweep after a verb."""

    sweep_id: str
    state: str
    changed: int | None
    """How many trials the verb reached; null: it is about the sweep only."""
