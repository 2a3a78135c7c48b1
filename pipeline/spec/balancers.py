"""The table of balancing rules: kinds, parameters, bounds and defaults, one entry per rule.

To add a rule, add an entry here and a file `workers/balancing/<kind>.py` whose `make` takes the
parameters by the same names. No other place has defaults.
"""

from typing import Annotated, Any, Literal, NamedTuple, Self, Union, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from evenload.pipeline.errors import first_message
from evenload.pipeline.spec.spec_file import LARGEST

Step = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, le=LARGEST, allow_inf_nan=False)]
Iterations = Annotated[int, Field(ge=1, le=1000)]
Schedule = Literal["constant", "inverse_sqrt", "inverse"]


class Rule(NamedTuple):
    """One entry of the table.

    summary:       one line for help texts
    params:        name -> (type, default), as the rule's factory takes them, and PACE
    context:       further arguments of the factory: "top_k", "target"
    takes_target:  whether a target load other than the uniform one is possible
    leaks_future:  whether later tokens influence earlier ones; such a rule is never recommended
    control:       whether the rule is only there for comparison, so it is never recommended
    """

    summary: str
    params: dict[str, tuple[Any, Any]]
    context: tuple[Literal["top_k", "target"], ...] = ()
    takes_target: bool = True
    leaks_future: bool = False
    control: bool = False


# Parameters of every rule whose steps have a size. `workers.balancing.combinators.paced` acts on
# them, so that a rule's factory does not take them.
PACE: dict[str, tuple[Any, Any]] = {
    "warm_until": (Share, 0.0),
    "decay_from": (Share, 1.0),
    "decay_shape": (Literal["linear", "cosine"], "linear"),
    "freeze_from": (Share, 1.0),
    "every": (Annotated[int, Field(ge=1, le=10_000)], 1),
}
SCHEDULE: dict[str, tuple[Any, Any]] = {"schedule": (Schedule, "constant")}
Scope = Literal["local", "sequence", "global"]
Groups = Annotated[int, Field(ge=2, le=10_000)] | None

BALANCERS: dict[str, Rule] = {
    "none": Rule("no balancing", {}, control=True),
    "aux_loss": Rule(
        "auxiliary loss alpha * sum f_k P_k (Switch, GShard)",
        {"coefficient": (Step, 1e-2), "scope": (Scope, "local"), "groups": (Groups, None)},
        context=("target",),
    ),
    "sign": Rule(
        "bias += u * sign(L - A) (loss-free balancing, DeepSeek-V3)",
        {"step_size": (Step, 1e-3), "centred": (bool, True), **SCHEDULE, **PACE},
    ),
    "proportional": Rule(
        "bias += u * (L - A) / L, or over the root mean square of L - A",
        {
            "step_size": (Step, 1e-2),
            "normalise": (Literal["target", "rms"], "target"),
            **SCHEDULE,
            **PACE,
        },
    ),
    "smebu": Rule(
        "bias += momentum of u * tanh(kappa * (L - A) / L) (Trinity)",
        {
            "step_size": (Step, 5e-4),
            "kappa": (Positive, 2.0),
            "momentum": (Momentum, 0.5),
            **PACE,
        },
    ),
    "lion": Rule(
        "bias += u * (sign of an average of (L - A) / L, minus a share of the bias)",
        {
            "step_size": (Step, 1e-3),
            "beta1": (Momentum, 0.9),
            "beta2": (Momentum, 0.99),
            "shrink": (Step, 0.1),
            **PACE,
        },
    ),
    "ema": Rule(
        "bias += u * relative error of an average of past loads, capped (axolotl)",
        {"step_size": (Step, 1e-3), "momentum": (Momentum, 0.9), "cap": (Positive, 2.0), **PACE},
    ),
    "quantile": Rule(
        "bias = the quantile of each expert's scores that gives it its load; no step size",
        {
            "method": (Literal["histogram", "exact"], "histogram"),
            "bins": (Annotated[int, Field(ge=10, le=100_000)], 1000),
            "memory": (Momentum, 0.0),
        },
    ),
    "sinkhorn": Rule(
        "routes the batch by its entropic transport plan",
        {"iterations": (Iterations, 30)},
        context=("target",),
        leaks_future=True,
    ),
    "bip": Rule(
        "routes the batch by a few iterations of a clipped primal-dual method",
        {"iterations": (Iterations, 4)},
        context=("top_k", "target"),
        leaks_future=True,
    ),
    "kalman": Rule(
        "bias += gain * Newton step, gain from a noise and drift model; no step size", {}
    ),
    "self_tuned": Rule(
        "bias += gain * Newton step, gain that makes successive errors uncorrelated; no step size",
        {},
    ),
    "random_router": Rule(
        "experts drawn at random for every token", {}, context=("top_k", "target"), control=True
    ),
    "frozen_router": Rule(
        "router weights as initialised; `step_size` moves a proportional bias",
        {"step_size": (Step, 0.0)},
        control=True,
    ),
    "expert_choice": Rule(
        "each expert takes its top tokens; sees later tokens, so its loss is not comparable",
        {},
        takes_target=False,
        leaks_future=True,
        control=True,
    ),
}


MEANING: dict[str, str] = {
    "coefficient": "Factor on the auxiliary loss.",
    "scope": "Whether loads are counted per micro-batch, per sequence, or over all workers.",
    "groups": "Balance this many equal groups of neighbouring experts, such as the ranks of expert "
    "parallelism, instead of single experts; null: single experts.",
    "step_size": "How far one update moves a bias (u in the formula).",
    "centred": "Whether the mean of the biases is kept at 0.",
    "normalise": "Whether errors are divided by the fair share or by their root mean square.",
    "schedule": "Decay of the step size with the number of updates.",
    "warm_until": "The step size grows from 0 over this share of the training.",
    "decay_from": "The step size falls from this share of the training on, to 0 at its end.",
    "decay_shape": "How it falls.",
    "freeze_from": "Biases no longer move after this share of the training.",
    "every": "Biases move once in so many optimizer steps, by the loads of all of them.",
    "kappa": "Slope of tanh: how soon an error counts as large.",
    "momentum": "Weight of the past in the running average.",
    "beta1": "Weight of the past in the average whose sign is the step.",
    "beta2": "Weight of the past in the average that is kept.",
    "shrink": "Share of the bias that every step takes away, in units of the step size.",
    "cap": "Largest size of a bias.",
    "method": "Whether quantiles are read from a histogram or computed exactly.",
    "bins": "Bins of the histogram.",
    "memory": "Weight of the previous bias; 0 forgets it at every step.",
    "iterations": "Iterations per batch.",
}


class AuxLoss(BaseModel):
    """An auxiliary loss beside a rule that moves biases."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    coefficient: Step = 1e-4
    """Factor on the loss."""
    scope: Scope = "sequence"
    """Whether loads are counted per micro-batch, per sequence, or over all workers."""
    groups: Groups = None
    """Balance this many equal groups of neighbouring experts, such as the ranks of expert
    parallelism, instead of single experts; null: single experts."""

    @property
    def label(self) -> str:
        groups = "" if self.groups is None else f" {self.groups} groups"
        return f"aux={self.coefficient:g} {self.scope}{groups}"


class BalancerSpec(BaseModel):
    """A balancing rule with its parameters. Every kind has a subclass, see `parse_balancer`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: str
    target: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Target share of the load per expert; null: the same for every expert."""
    aux: AuxLoss | None = None
    """A small auxiliary loss beside the rule, as DeepSeek-V3 has; null: none."""

    @property
    def rule(self) -> Rule:
        return BALANCERS[self.kind]

    @property
    def params(self) -> dict[str, Any]:
        """The rule's own parameters, as its factory in workers/balancing takes them."""
        return {name: getattr(self, name) for name in self.rule.params}

    @property
    def step(self) -> float | None:
        """The step size or coefficient; None if the rule has neither."""
        value = self.params.get("step_size", self.params.get("coefficient"))
        return None if value is None else float(value)

    @property
    def label(self) -> str:
        """A short name: kind, step size, and other parameters that differ from their default."""
        step_names = ("step_size", "coefficient")
        steps = [f"{self.params[name]:g}" for name in step_names if name in self.params]
        others = [
            f"{name}={value}"
            for name, value in self.params.items()
            if name not in step_names and value != self.rule.params[name][1]
        ]
        aux = [] if self.aux is None else [self.aux.label]
        return " ".join([self.kind, *steps, *others, *aux])

    @model_validator(mode="after")
    def _aux_is_legal(self) -> Self:
        if self.aux is not None and (self.rule.control or self.kind == "aux_loss"):
            raise ValueError(
                f"aux: kind={self.kind!r} takes no auxiliary loss beside it; use kind='aux_loss'"
            )
        return self

    @model_validator(mode="after")
    def _target_is_legal(self) -> Self:
        if self.target is None:
            return self
        if not self.rule.takes_target:
            raise ValueError(f"kind={self.kind!r} takes no target: its load is uniform by design")
        if abs(sum(self.target) - 1) > 1e-6:
            raise ValueError(f"target sums to {sum(self.target):g}; the shares must sum to 1")
        return self


def _spec_class(kind: str, rule: Rule) -> type[BalancerSpec]:
    params = {
        name: (Annotated[value, Field(description=MEANING.get(name))], default)
        for name, (value, default) in rule.params.items()
    }
    fields = {"kind": (Literal[kind], kind), **params}
    return create_model(
        f"{kind}_spec", __base__=BalancerSpec, __doc__=rule.summary, **cast(Any, fields)
    )


_SPECS = {kind: _spec_class(kind, rule) for kind, rule in BALANCERS.items()}


def parse_balancer(value: object) -> BalancerSpec:
    """The spec that a mapping with a `kind` describes.

    Raises:   ValueError: unknown kind, unknown parameter, value out of bounds
    """
    if isinstance(value, BalancerSpec):
        return value
    kind = value.get("kind") if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(kind, str) or kind not in _SPECS:
        raise ValueError(
            f"kind={kind!r} is not a balancing rule; choose one of {', '.join(_SPECS)}"
        )
    try:
        return _SPECS[kind].model_validate(value)
    except ValidationError as error:
        raise ValueError(first_message(error)) from None


class _AnyRule:
    """Puts every rule and its parameters into JSON Schema, where editors look them up."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        rules: Any = Annotated[Union[tuple(_SPECS.values())], Field(discriminator="kind")]  # noqa: UP007
        return handler(TypeAdapter(rules).core_schema)


Balancer = Annotated[SerializeAsAny[BalancerSpec], BeforeValidator(parse_balancer), _AnyRule]
