"""The table of balancing rules: their kinds, parameters, bounds and defaults, one entry a rule.

Adding a rule is one entry here, one file `workers/balancing/<kind>.py` whose `make` takes the
parameters by the names given here, and one line in the README. Defaults stand here only.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from pipeline.errors import first_message

Step = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Schedule = Literal["constant", "inverse_sqrt", "inverse"]


class Rule(NamedTuple):
    """What the table says of a rule: a summary, parameters as (type, default), labels."""

    summary: str
    params: dict[str, tuple[Any, Any]]
    leaks_future: bool = False  # later tokens influence earlier ones: shown, never recommended
    control: bool = False  # a yardstick, never recommended


BALANCERS: dict[str, Rule] = {
    "none": Rule("no balancing", {}, control=True),
    "aux_loss": Rule(
        "auxiliary loss alpha * sum f_k P_k (Switch, GShard)",
        {
            "coefficient": (Step, 1e-2),
            "scope": (Literal["local", "sequence", "global"], "local"),
        },
    ),
    "sign": Rule(
        "bias += u * sign(L - A) (loss-free balancing, DeepSeek-V3)",
        {
            "step_size": (Step, 1e-3),
            "centred": (bool, True),
            "schedule": (Schedule, "constant"),
            "decay_from": (Share, 1.0),
        },
    ),
}


class BalancerSpec(BaseModel):
    """A balancing rule with its parameters; `parse_balancer` finds the subclass of a `kind`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    target: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None, description="wanted share of the load per expert; None is the uniform load"
    )

    @property
    def rule(self) -> Rule:
        return BALANCERS[self.kind]

    @property
    def params(self) -> dict[str, Any]:
        """The rule's own parameters, as its factory in workers/balancing takes them."""
        return {name: getattr(self, name) for name in self.rule.params}

    @property
    def step(self) -> float | None:
        """Position on the step-size axis of a grid; None where a rule has none."""
        value = self.params.get("step_size", self.params.get("coefficient"))
        return None if value is None else float(value)

    @property
    def label(self) -> str:
        """Short name: kind, step size, and each other parameter that is not its default."""
        step_names = ("step_size", "coefficient")
        steps = [f"{self.params[name]:g}" for name in step_names if name in self.params]
        others = [
            f"{name}={value}"
            for name, value in self.params.items()
            if name not in step_names and value != self.rule.params[name][1]
        ]
        return " ".join([self.kind, *steps, *others])

    @model_validator(mode="after")
    def _target_sums_to_one(self) -> Self:
        if self.target is not None and abs(sum(self.target) - 1) > 1e-6:
            raise ValueError(f"target sums to {sum(self.target):g}; the shares must sum to 1")
        return self


_SPECS: dict[str, type[BalancerSpec]] = {
    kind: create_model(
        f"{kind}_spec",
        __base__=BalancerSpec,
        **cast(Any, {"kind": (Literal[kind], kind), **rule.params}),
    )
    for kind, rule in BALANCERS.items()
}


def parse_balancer(value: object) -> BalancerSpec:
    """The spec that a mapping with a `kind` describes.

    Raises:   ValueError: unknown kind, unknown parameter, value out of bounds
    """
    if isinstance(value, BalancerSpec):
        return value
    if not isinstance(value, dict) or value.get("kind") not in _SPECS:
        kind = value.get("kind") if isinstance(value, dict) else value
        raise ValueError(f"kind={kind!r} is no balancing rule; choose one of {', '.join(_SPECS)}")
    try:
        return _SPECS[value["kind"]].model_validate(value)
    except ValidationError as error:
        raise ValueError(first_message(error)) from None
