"""The spec of evenload's own model."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, model_validator

from evenload.pipeline.spec.load_shape import LoadShape
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.spec_file import Frozen, NonNegativeInt, PositiveFloat, PositiveInt


def _with_preset(schema: dict[str, Any]) -> None:
    """Adds `kind` and `preset`, which are read before validation; `preset` makes the other keys
    optional."""
    preset = {
        "enum": list(PRESETS),
        "default": None,
        "description": "Named dimensions; they fill in the keys that are not given.",
    }
    required = schema.pop("required")
    kind = {"const": "own", "default": "own", "type": "string"}
    schema["properties"] = {"kind": kind, "preset": preset, **schema["properties"]}
    schema["anyOf"] = [{"required": ["preset"]}, {"required": required}]


class ModelSpec(Frozen):
    """A DeepSeekMoE language model (Dai et al. 2024, arXiv:2401.06066).

    `preset` fills in the keys that are not given. It is not stored: equal models have equal specs.
    Neither is `kind`: a model without one is of this kind.
    """

    model_config = ConfigDict(json_schema_extra=_with_preset)

    vocab_size: PositiveInt
    """Number of different tokens; at least that of the data."""
    num_layers: PositiveInt
    """Transformer layers in all."""
    d_model: PositiveInt
    """Width of the model; an even multiple of `num_heads`."""
    num_heads: PositiveInt
    """Attention heads per layer."""
    num_dense_layers: NonNegativeInt = 1
    """The first layers have a dense feed-forward network; all others have experts."""
    d_dense: PositiveInt
    """Inner width of the dense feed-forward networks."""
    num_experts: PositiveInt
    """Routed experts per layer."""
    top_k: PositiveInt
    """Experts that the router chooses for each token."""
    num_shared: NonNegativeInt = 1
    """Experts per layer that every token passes through, beside the routed ones."""
    d_expert: PositiveInt
    """Inner width of one expert."""
    gate: Literal["sigmoid", "softmax", "sqrt_softplus"] = "sigmoid"
    """Function that turns router logits into scores; DeepSeek-V4 has sqrt_softplus."""
    num_groups: PositiveInt = 1
    """Equal groups of neighbouring experts; a token's experts are in `top_groups` of them."""
    top_groups: PositiveInt = 1
    """Groups whose experts a token may choose: those with the largest sum of two scores."""
    renormalise: bool = True
    """Whether the gate weights of the chosen experts are scaled to sum to 1."""
    route_scale: PositiveFloat = 1.0
    """Factor on the output of the routed experts."""
    rope_theta: PositiveFloat = 10000.0
    """Base of the rotary position embedding."""
    norm_eps: PositiveFloat = 1e-6
    """Constant under the root of every RMS norm."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights."""
    tie_embeddings: bool = False
    """Whether the output layer shares the weights of the embedding."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = {key: field for key, field in value.items() if key not in ("kind", "preset")}
        if "preset" not in value:
            return given
        preset = value["preset"]
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is unknown; choose one of {', '.join(PRESETS)}")
        return PRESETS[preset] | given

    @model_validator(mode="after")
    def _dimensions_fit(self) -> Self:
        if self.top_k > self.num_experts:
            raise ValueError(
                f"top_k={self.top_k} exceeds num_experts={self.num_experts}; "
                f"lower top_k to at most {self.num_experts} or add experts"
            )
        self._groups_fit()
        if self.d_model % self.num_heads or (self.d_model // self.num_heads) % 2:
            raise ValueError(
                f"d_model={self.d_model} must be an even multiple of num_heads={self.num_heads}"
            )
        if self.num_dense_layers >= self.num_layers:
            raise ValueError(
                f"num_dense_layers={self.num_dense_layers} leaves no expert layer of "
                f"num_layers={self.num_layers}; lower it below {self.num_layers}"
            )
        return self

    def _groups_fit(self) -> None:
        is_grouped = self.num_groups > 1
        if is_grouped and (
            self.num_experts % self.num_groups or 2 * self.num_groups > self.num_experts
        ):
            raise ValueError(
                f"num_groups={self.num_groups} must divide num_experts={self.num_experts} into "
                "groups of at least two"
            )
        if not self.top_k <= self.num_reachable <= self.num_experts:
            raise ValueError(
                f"top_groups={self.top_groups} of num_groups={self.num_groups} offer "
                f"{self.num_reachable} of num_experts={self.num_experts}: choose top_groups so "
                f"that these are at least top_k={self.top_k}"
            )

    @property
    def num_reachable(self) -> int:
        """Experts among which a token chooses once its groups are chosen."""
        return self.num_experts // self.num_groups * self.top_groups

    @property
    def kind(self) -> Literal["own"]:
        return "own"

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - self.num_dense_layers

    @property
    def load_shape(self) -> LoadShape:
        layers = tuple(str(layer) for layer in range(self.num_dense_layers, self.num_layers))
        return LoadShape(layers=layers, num_experts=self.num_experts, top_k=self.top_k)
