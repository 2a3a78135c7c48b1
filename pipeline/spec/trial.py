"""The spec of a trial. It is validated once here and trusted everywhere else."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.balancers import Balancer
from evenload.pipeline.spec.data import (
    BpeTokenizer,
    BytesTokenizer,
    DataSpec,
    PythonStdlib,
    Synthetic,
    TextData,
)
from evenload.pipeline.spec.load_shape import LoadShape, RunOutline
from evenload.pipeline.spec.other_models import HuggingFaceModel, OtherModel, PythonModel
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.spec_file import (
    Frozen,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    load,
    sha256,
)


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


MODEL_KINDS: dict[str, type[ModelSpec] | type[OtherModel]] = {
    "own": ModelSpec,
    "huggingface": HuggingFaceModel,
    "python": PythonModel,
}


def _of_its_kind(value: Any) -> Any:
    """The spec of a model; without a `kind` it is evenload's own."""
    if not isinstance(value, dict):
        return value
    kind = value.get("kind", "own")
    if kind not in MODEL_KINDS:
        raise ValueError(f"kind={kind!r} is unknown; choose one of {', '.join(MODEL_KINDS)}")
    return MODEL_KINDS[kind].model_validate(value)


Model = Annotated[ModelSpec | HuggingFaceModel | PythonModel, BeforeValidator(_of_its_kind)]


class TrainSpec(Frozen):
    """How one trial trains. One step is one optimizer step over `batch_sequences` sequences."""

    steps: Annotated[int, Field(gt=0, lt=2**31)]
    """Optimizer steps."""
    batch_sequences: PositiveInt
    """Sequences per optimizer step."""
    seq_len: Annotated[int, Field(ge=2, lt=2**31)]
    """Tokens per sequence."""
    micro_batch_sequences: PositiveInt | None = None
    """Sequences per forward pass; null: the whole batch of a worker at once."""
    learning_rate: PositiveFloat = 3e-3
    """Highest learning rate of AdamW."""
    min_lr_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """With cosine and wsd: learning rate at the end, as a share of the highest one."""
    warmup_steps: NonNegativeInt = 0
    """Steps over which the learning rate grows from 0."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """Course of the learning rate after warm-up; wsd is warm-up, stable, decay."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """With wsd: the last share of the steps, in which the learning rate decays."""
    weight_decay: NonNegativeFloat = 0.1
    """Weight decay of AdamW; the weights of norms have none."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay rate of AdamW's first moment."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay rate of AdamW's second moment."""
    grad_clip: PositiveFloat = 1.0
    """Largest norm of the gradient; a longer one is scaled down to it."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products; weights, routers and the residual stream stay in float32.
    auto: bfloat16 for evenload's own model on a GPU, where float32 is slow, else float32. Resolved
    once and stored with the trial."""
    recompute: bool = False
    """Whether activations are computed again in the backward pass, to save memory."""
    compile: bool = False
    """Whether torch.compile is used: steps are 8 to 24 % shorter on a CPU, after about half a
    minute of compiling. Evaluations are never compiled."""
    seed: NonNegativeInt = 0
    """Seed of the weights and of the order of the data."""

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        micro = self.micro_batch_sequences
        if micro is not None and self.batch_sequences % micro:
            raise ValueError(
                f"batch_sequences={self.batch_sequences} is not a multiple of "
                f"micro_batch_sequences={micro}; choose a divisor"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be below steps={self.steps}")
        return self

    @property
    def tokens_per_step(self) -> int:
        return self.batch_sequences * self.seq_len

    @property
    def num_micro_batches(self) -> int:
        return self.batch_sequences // (self.micro_batch_sequences or self.batch_sequences)


class EvalSpec(Frozen):
    """Evaluation on held-out text: about `tokens` tokens, taken at even distances.

    Smaller samples are scored by group of documents and with other numbers of experts per token.
    """

    tokens: PositiveInt = 65536
    """Validation tokens that are scored at the end."""
    batch_sequences: PositiveInt = 16
    """Sequences per forward pass of the evaluation."""
    groups: NonNegativeInt = 8
    """How many groups of documents are also scored separately, largest first; 0: none."""
    group_tokens: PositiveInt = 4096
    """Most tokens that are scored of each group."""
    by_k: Literal["none", "powers", "every"] = "powers"
    """Also score with other numbers k of experts per token: with powers of two, top_k and
    num_experts, or with every k up to num_experts, which takes num_experts passes."""
    by_k_tokens: PositiveInt = 4096
    """Tokens that are scored for each k; the same ones each time."""
    routes: bool = True
    """Whether to count which experts are chosen together and in succession."""
    every_steps: PositiveInt | None = None
    """Also score every so many training steps, for the learning curve; null: only at the end."""
    curve_tokens: PositiveInt = 8192
    """Tokens that are scored for each point of the learning curve; the same ones each time."""


class RuntimeSpec(Frozen):
    """Where and how a trial runs. `auto` is resolved once and stored with the trial."""

    backend: Literal["auto", "reference", "torch", "triton", "triton_recompute"] = "auto"
    """Kernels of the expert layer: loops, torch's grouped products, Triton, or Triton with less
    memory. auto: torch."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train. auto: cuda if there is a GPU, else cpu."""
    threads: PositiveInt = 1
    """CPU threads per worker; part of the trial's identity."""
    workers: PositiveInt = 1
    """Processes that share each batch, one GPU each if there are GPUs. Part of the trial's
    identity, since several processes sum in another order than one does."""
    log_every: PositiveInt = 10
    """Steps between two records of scalars in MLflow."""
    checkpoint_every: PositiveInt = 50
    """Steps between two checkpoints."""


class TrialLimits(Frozen):
    """What a trial may take. It is no part of the trial's identity."""

    hours: PositiveFloat | None = None
    """Hours that workers may hold it, all attempts together. A training beyond them is stopped with
    a checkpoint, an evaluation fails; null: as long as it takes."""


# Keys that a trial got later, with the value that all trials had before. They are left out of its
# identity there, so that trials that were stored before keep theirs.
LATER: dict[str, dict[str, Any]] = {
    "model": {"num_groups": 1, "top_groups": 1},
    "balancer": {
        "aux": None,
        "groups": None,
        "decay_from": 1.0,
        "decay_shape": "linear",
        "every": 1,
    },
}


class TrialSpec(Frozen):
    """One training run. Its spec, its corpus and the code of the core make up its identity."""

    model: Model
    """The model: evenload's own, or another's."""
    data: DataSpec = PythonStdlib()
    """Where the text comes from and how it becomes tokens."""
    balancer: Balancer
    """The balancing rule and its parameters."""
    train: TrainSpec
    eval: EvalSpec = EvalSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    limits: TrialLimits = TrialLimits()
    extends: str | None = None
    """Digest of a finished trial that differs only in having fewer steps. Training continues from
    its checkpoint, with the learning rate that the schedule of the new length has there."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self._kind_fits()
        self._target_fits()
        self._groups_fit()
        self._router_fits()
        self._vocabulary_fits()
        self._workers_share_batches()
        return self

    def _kind_fits(self) -> None:
        """What depends on evenload's own model."""
        kind, backend = self.model.kind, self.runtime.backend
        if kind == "own":
            return
        if self.train.compile:
            raise ValueError(
                f"train.compile=true: a model of kind {kind!r} counts outside of compiled code; "
                "set it to false"
            )
        if self.train.recompute and kind == "python":
            raise ValueError(
                "train.recompute=true: the model of a function decides itself what it computes "
                "again; set it to false, and give the function an argument"
            )
        if backend not in ("auto", "torch"):
            raise ValueError(
                f"runtime.backend={backend!r} has kernels of evenload's own model, and "
                f"model.kind={kind!r} brings its own; set it to auto"
            )

    def _target_fits(self) -> None:
        target, model = self.balancer.target, self.model
        if target is None or (isinstance(model, OtherModel) and model.built is None):
            return
        if len(target) != model.num_experts:
            raise ValueError(
                f"balancer.target has {len(target)} shares for "
                f"model.num_experts={model.num_experts}; give one share per expert"
            )
        if max(target) * model.top_k > 1:
            raise ValueError(
                f"balancer.target has a share of {max(target):g}, but with "
                f"model.top_k={model.top_k} an expert takes at most {1 / model.top_k:g} of the "
                "assignments; lower it"
            )

    def _groups_fit(self) -> None:
        rule, model = self.balancer, self.model
        groups = rule.params.get("groups") if rule.aux is None else rule.aux.groups
        if groups is None or (isinstance(model, OtherModel) and model.built is None):
            return
        if model.num_experts % groups:
            raise ValueError(
                f"balancer has an auxiliary loss over groups={groups}, which does not divide "
                f"model.num_experts={model.num_experts}; choose a divisor"
            )

    def _router_fits(self) -> None:
        rule, model = self.balancer, self.model
        if not isinstance(model, ModelSpec):
            return
        if model.gate == "sqrt_softplus" and (
            rule.kind == "sinkhorn" or rule.params.get("method") == "histogram"
        ):
            remedy = "another rule" if rule.kind == "sinkhorn" else "balancer.method: exact"
            raise ValueError(
                f"balancer.kind={rule.kind!r} takes scores in (0, 1), and those of "
                f"model.gate='sqrt_softplus' have no bound; use {remedy}"
            )
        if model.num_groups > 1 and rule.kind == "expert_choice":
            raise ValueError(
                f"model.num_groups={model.num_groups}: with balancer.kind='expert_choice' no "
                "token chooses groups; set it to 1"
            )

    def _vocabulary_fits(self) -> None:
        match self.data:
            case Synthetic(vocab_size=needed) | TextData(tokenizer=BpeTokenizer(vocab_size=needed)):
                pass
            case TextData(tokenizer=BytesTokenizer()):
                needed = 256
            case _:  # the number is not known before the corpus is read
                return
        if isinstance(self.model, HuggingFaceModel) and self.model.built is None:
            return
        if needed > self.model.vocab_size:
            raise ValueError(
                f"model.vocab_size={self.model.vocab_size} is smaller than the "
                f"{needed} tokens of the data; raise it to at least {needed}"
            )

    def _workers_share_batches(self) -> None:
        workers, train = self.runtime.workers, self.train
        pieces = workers * (train.micro_batch_sequences or 1)
        if train.batch_sequences % pieces:
            micro = train.micro_batch_sequences
            raise ValueError(
                f"runtime.workers={workers} cannot share train.batch_sequences="
                f"{train.batch_sequences} evenly"
                + (f" in pieces of train.micro_batch_sequences={micro}" if micro else "")
                + f"; make the batch a multiple of {pieces}"
            )

    @property
    def own_model(self) -> ModelSpec:
        """The model of a trial whose `model.kind` is "own".  Raises: SpecError: it is another"""
        if isinstance(self.model, ModelSpec):
            return self.model
        raise SpecError(
            f"model.kind={self.model.kind!r}: this works with evenload's own model alone; name a "
            "trial without model.kind"
        )

    @property
    def outline(self) -> RunOutline:
        return RunOutline(
            self.model.load_shape,
            self.train.tokens_per_step,
            self.train.steps,
            self.balancer.target,
        )

    def digest(self, corpus_digest: str, core_version: str) -> str:
        """16 hex digits that identify everything that can change the trial's numbers.

        How often things are logged is left out, because it does not change what is computed.
        """
        content = self.model_dump(
            mode="json",
            exclude={
                "runtime": {"log_every", "checkpoint_every"},
                "eval": {"every_steps", "curve_tokens"},
                "limits": True,
            },
        )
        for part, added in LATER.items():
            for key, value in added.items():
                if key in content[part] and content[part][key] == value:
                    del content[part][key]
        return sha256({"spec": content, "corpus": corpus_digest, "core": core_version})[:16]


def load_trial(path: Path) -> TrialSpec:
    """The trial that a YAML file describes.  Raises: SpecError"""
    return load(TrialSpec, path)
