"""What a user may ask for as a sweep: a base trial, the axes to vary, and how to go about it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pipeline.errors import first_message, shown
from pipeline.spec import TrialSpec
from pipeline.spec_file import Frozen, load, sha256


class GridSearch(Frozen):
    """Every combination, later axes fastest."""

    kind: Literal["grid"] = "grid"


class RandomSearch(Frozen):
    """Combinations in random order, without repetition."""

    kind: Literal["random"] = "random"
    trials: PositiveInt | None = Field(default=None, description="how many; None is all of them")
    seed: NonNegativeInt = 0


SearchSpec = Annotated[GridSearch | RandomSearch, Field(discriminator="kind")]


class SweepSpec(Frozen):
    """A base trial and the axes to vary.

    `axes` maps a dotted key of the trial to its values, e.g. `model.num_experts: [16, 32]` or
    `balancer: [{kind: none}, {kind: sign, step_size: 0.01}]`. Later axes vary fastest.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    base: dict[str, Any]
    axes: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    search: SearchSpec = GridSearch()
    max_retries: NonNegativeInt = Field(
        default=2, description="workers that a trial may lose before it is given up"
    )
    max_preemptions: NonNegativeInt = Field(
        default=20, description="times a trial may be preempted before it is given up"
    )
    priority: int = Field(default=0, description="sweeps of a higher priority start first")
    stacking: Literal["auto", "off"] = Field(
        default="auto", description="train trials of equal shape together where that is faster"
    )

    @model_validator(mode="after")
    def _every_trial_is_valid(self) -> Self:
        self.expand()
        return self

    def expand(self) -> list[TrialSpec]:
        """The trials in axis order, without duplicates.

        Raises:   ValueError: a combination that is no valid trial, with its axis values
        """
        unique: dict[str, TrialSpec] = {}
        for values in itertools.product(*self.axes.values()):
            point = dict(zip(self.axes, values, strict=True))
            tree = self.base
            for key, value in point.items():
                tree = _with_value(tree, key.split("."), value, key)
            try:
                trial = TrialSpec.model_validate(tree)
            except ValidationError as error:
                raise ValueError(f"at {shown(point)}: {first_message(error)}") from None
            unique.setdefault(sha256(trial.model_dump(mode="json")), trial)
        return list(unique.values())

    def sweep_id(self) -> str:
        """The name and six hex digits of the content: submitting the same sweep twice is once."""
        return f"{self.name}-{sha256(self.model_dump(mode='json'))[:6]}"


def load_sweep(path: Path) -> SweepSpec:
    """The sweep that a YAML file describes.  Raises: SpecError"""
    return load(SweepSpec, path)


def _with_value(tree: Any, path: list[str], value: Any, key: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise ValueError(f"axes.{key}: {path[0]!r} lies inside a value that holds no keys")
    head, rest = path[0], path[1:]
    return tree | {head: _with_value(tree.get(head, {}), rest, value, key) if rest else value}
