"""Models that are not evenload's own: a Hugging Face folder, or what a function of the user builds.

How many experts such a model has is known when it has been built. evenload builds it, without
memory for its weights, when trials are planned, and stores what it found with the trial.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator
from pydantic.json_schema import SkipJsonSchema

from evenload.pipeline.spec.load_shape import LoadShape
from evenload.pipeline.spec.spec_file import Frozen, NonNegativeInt, PositiveInt


class Built(LoadShape):
    """What a model was found to be. evenload fills this in."""

    vocab_size: PositiveInt
    """Number of different tokens."""
    scores: str
    """What routers select on: probability, logit or sqrt-softplus."""
    bias: Literal["own", "added", "none"]
    """Whose selection bias the rule moves; none: no bias can be added."""
    parameters: PositiveInt
    """Number of weights."""
    expert_parameters: NonNegativeInt
    """Number of weights in the routed experts."""
    flops: tuple[NonNegativeFloat, NonNegativeFloat]
    """FLOPs of a forward pass per token: a number, and one to be multiplied by the length."""
    content: str
    """Digest of what the model was built from."""
    changes: dict[str, Any] = Field(default={})
    """Keys of the folder's configuration that were replaced."""


class OtherModel(Frozen):
    """What models of another's code share."""

    kind: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    freeze: Literal["none", "router"] = "none"
    """Whether the router weights stay as they are. `balancer.kind: none` keeps the biases."""
    num_experts: NonNegativeInt = 0
    """Routed experts per layer; 0: as in the folder, or as the function builds it."""
    top_k: NonNegativeInt = 0
    """Experts that a router chooses for each token; 0: likewise."""
    built: SkipJsonSchema[Built | None] = None
    """What the model was found to be; evenload fills it in."""

    @property
    def found(self) -> Built:
        """Raises: ValueError: the trial was not resolved"""
        if self.built is None:
            raise ValueError("the model was not built yet: resolve the trial first")
        return self.built

    @property
    def num_moe_layers(self) -> int:
        return len(self.found.layers)

    @property
    def num_reachable(self) -> int:
        """Experts among which a token chooses."""
        return self.found.num_experts

    @property
    def load_shape(self) -> LoadShape:
        return LoadShape(**{name: getattr(self.found, name) for name in LoadShape.model_fields})


class HuggingFaceModel(OtherModel):
    """A causal language model of the transformers library, from a folder on this machine.

    Its router is given the bias of the rule, in the model's own tensor if it has one. Nothing is
    ever downloaded.
    """

    kind: Literal["huggingface"] = "huggingface"
    path: Path
    """Folder with a `config.json`, and with weights if `weights` is true."""
    weights: bool = False
    """Whether training starts from the folder's weights; false: from random ones."""
    config: dict[str, Any] = Field(default={})
    """Other keys of `config.json` to replace, by their own names."""

    @property
    def vocab_size(self) -> int:
        return self.found.vocab_size


class PythonModel(OtherModel):
    """A module that a Python function builds: token ids (B, S) in, logits (B, S, V) out.

    Its own code is not changed: the bias is added where its routers call `topk`.
    """

    kind: Literal["python"] = "python"
    factory: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """The function, as `package.module:function`. It must be importable on every worker."""
    arguments: dict[str, Any] = Field(default={})
    """Keyword arguments of the function."""
    vocab_size: PositiveInt
    """Number of different tokens."""

    @model_validator(mode="after")
    def _sizes_are_found(self) -> Self:
        for name in ("num_experts", "top_k"):
            if self.built is None and getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} is found by building the model; give the "
                    "function its size under `arguments`"
                )
        return self
