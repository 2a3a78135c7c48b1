"""The spec of a simulation, which runs balancing rules on streams of router scores without a model.

Every rule runs on every stream, and all rules get the same scores.
"""

import itertools
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from evenload.pipeline.spec.balancers import Balancer, BalancerSpec, parse_balancer
from evenload.pipeline.spec.spec_file import (
    Frozen,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    load,
)

ACTS_IN_TRAINING = {
    "aux_loss": "it acts on the router through training",
    "expert_choice": "its load is even by design",
}


class Preferences(Frozen):
    """How strongly experts are preferred, and how that changes. All numbers are logits."""

    gate: Literal["sigmoid", "softmax"] = "sigmoid"
    """Function that turns logits into scores."""
    skew: NonNegativeFloat = 1.0
    """Standard deviation over experts of how strongly each is preferred."""
    drift: NonNegativeFloat = 0.0
    """Standard deviation of the change of each preference per step."""
    jump_at: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the steps after which all preferences are drawn anew; null: never."""


class Gaussian(Preferences):
    """Independent tokens with normally distributed logits."""

    kind: Literal["gaussian"] = "gaussian"


class HeavyTailed(Preferences):
    """Independent tokens with logits that follow Student's t."""

    kind: Literal["heavy_tailed"] = "heavy_tailed"
    degrees: PositiveFloat = 2.0
    """Degrees of freedom of the distribution."""


class Correlated(Preferences):
    """Tokens of a sequence share a part of the variance of their logits."""

    kind: Literal["correlated"] = "correlated"
    seq_len: PositiveInt = 128
    """Tokens per sequence."""
    share: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of the variance that the tokens of a sequence have in common."""


class Zipf(Preferences):
    """Token types that follow Zipf's law. Each has its own logits, to which context is added."""

    kind: Literal["zipf"] = "zipf"
    vocab_size: PositiveInt = 1000
    """Number of token types."""
    exponent: PositiveFloat = 1.0
    """Exponent of the law: type n is n to this power times as rare as the first one."""
    context: NonNegativeFloat = 0.5
    """Standard deviation of the part of the logits that depends on the context."""


class Adversarial(Preferences):
    """Preferences that change sign every `period` steps."""

    kind: Literal["adversarial"] = "adversarial"
    period: PositiveInt = 20
    """Steps between two changes of sign."""


class Recorded(Frozen):
    """Scores recorded in training, with layers in place of seeds.

    `evenload train --record-scores` and `evenload.attach(record_scores=)` write them.
    """

    kind: Literal["recorded"] = "recorded"
    path: Path
    """Path of the recording, or of a folder with `scores.npz`, or name of a recorded run."""


StreamSpec = Annotated[
    Gaussian | HeavyTailed | Correlated | Zipf | Adversarial | Recorded, Field(discriminator="kind")
]


def _rules_of(value: object) -> object:
    """The rules, with every combination of the parameters that are lists."""
    if not isinstance(value, list | tuple):
        return value
    return tuple(rule for entry in value for rule in _combinations(entry))


def _combinations(entry: object) -> list[BalancerSpec]:
    if not isinstance(entry, dict):
        return [parse_balancer(entry)]
    axes = {
        name: choice if isinstance(choice, list) and name != "target" else [choice]
        for name, choice in entry.items()
    }
    points = itertools.product(*axes.values())
    return [parse_balancer(dict(zip(axes, point, strict=True))) for point in points]


FIGURES_BYTES = 500  # of one rule, seed and step


class SimulationSpec(Frozen):
    """Every rule runs on every stream. All rules see the same scores."""

    name: str = "simulation"
    """Name of the simulation."""
    tokens: PositiveInt = 4096
    """Tokens per step."""
    num_experts: Annotated[PositiveInt, Field(ge=2)] = 64
    """Experts per layer."""
    top_k: PositiveInt = 6
    """Experts that are chosen for each token."""
    steps: PositiveInt = 500
    """Steps per stream and rule."""
    seeds: PositiveInt = 3
    """Number of repetitions with other random numbers."""
    first_seed: NonNegativeInt = 0
    """Seed of the first repetition; the others follow it."""
    steady_share: Annotated[float, Field(gt=0, le=1)] = 0.4
    """The last share of the steps, which counts as the steady state."""
    streams: dict[str, StreamSpec] = Field(min_length=1)
    """Streams of router scores, by a name of your choice."""
    rules: Annotated[tuple[Balancer, ...], BeforeValidator(_rules_of), Field(min_length=1)]
    """Balancing rules. A parameter can be a list: the rule then runs with each value."""
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,2})?)$")] = "cpu"
    """Where to compute: cpu, cuda, or one GPU such as cuda:1."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.top_k >= self.num_experts:
            raise ValueError(
                f"top_k={self.top_k} leaves nothing to balance among "
                f"num_experts={self.num_experts}; lower it"
            )
        for rule in self.rules:
            if rule.kind in ACTS_IN_TRAINING:
                reason = ACTS_IN_TRAINING[rule.kind]
                raise ValueError(f"rules: {rule.kind!r} has no effect here: {reason}; remove it")
            if rule.aux is not None:
                raise ValueError(
                    f"rules: {rule.label!r}: aux has no effect here: it acts on the router "
                    "through training; remove it"
                )
            if rule.target is not None and len(rule.target) != self.num_experts:
                raise ValueError(
                    f"rules: {rule.kind!r} has a target of {len(rule.target)} shares for "
                    f"num_experts={self.num_experts}; give one share per expert"
                )
        labels = [rule.label for rule in self.rules]
        if len(set(labels)) < len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise ValueError(f"rules: {twice!r} is named twice; remove one")
        return self

    @property
    def memory_bytes(self) -> int:
        """About the most memory that it takes, without recordings, which have sizes of their own.

        A step has about ten arrays of the size of its scores: noise, biased scores, ranks. A
        histogram has a bin per expert; and figures of every step are kept to the end.
        """
        scores = 4 * self.tokens * self.num_experts * self.seeds
        bins = max(int(rule.params.get("bins", 0)) for rule in self.rules)
        history = FIGURES_BYTES * self.steps * self.seeds * len(self.rules)
        return 10 * scores + 12 * bins * self.num_experts * self.seeds + history

    @property
    def steady_steps(self) -> int:
        return max(1, round(self.steady_share * self.steps))


def load_simulation(path: Path) -> SimulationSpec:
    """The simulation that a YAML file describes.  Raises: SpecError"""
    return load(SimulationSpec, path)
