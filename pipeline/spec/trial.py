"""What a user may ask for as a trial. Checked once here, trusted everywhere behind this border.

Letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    SerializeAsAny,
    model_validator,
)

from evenload.pipeline.spec.balancers import BalancerSpec, parse_balancer
from evenload.pipeline.spec.data import (
    BpeTokenizer,
    BytesTokenizer,
    DataSpec,
    PythonStdlib,
    Synthetic,
    TextData,
)
from evenload.pipeline.spec.presets import PRESETS
from evenload.pipeline.spec.spec_file import Frozen, NonNegativeInt, PositiveInt, load, sha256


class ModelSpec(Frozen):
    """A DeepSeekMoE language model (Dai et al. 2024, arXiv:2401.06066).

    `preset` fills in the fields that are not given; it is not kept: equal models, equal specs.
    """

    vocab_size: PositiveInt
    num_layers: PositiveInt
    d_model: PositiveInt
    num_heads: PositiveInt
    num_dense_layers: NonNegativeInt = Field(
        default=1, description="leading layers with a dense FFN; the rest have experts"
    )
    d_dense: PositiveInt
    num_experts: PositiveInt
    top_k: PositiveInt
    num_shared: NonNegativeInt = 1
    d_expert: PositiveInt
    gate: Literal["sigmoid", "softmax"] = "sigmoid"
    renormalise: bool = Field(
        default=True, description="gate weights of the chosen experts sum to 1"
    )
    route_scale: PositiveFloat = 1.0
    rope_theta: PositiveFloat = 10000.0
    norm_eps: PositiveFloat = 1e-6
    init_std: PositiveFloat = 0.02
    tie_embeddings: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "preset" not in value:
            return value
        given = {key: field for key, field in value.items() if key != "preset"}
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

    @property
    def num_moe_layers(self) -> int:
        return self.num_layers - self.num_dense_layers


class TrainSpec(Frozen):
    """How one trial trains. One step is one optimizer step over `batch_sequences` sequences."""

    steps: Annotated[int, Field(gt=0, lt=2**31)]
    batch_sequences: PositiveInt
    seq_len: Annotated[int, Field(ge=2, lt=2**31)]
    micro_batch_sequences: PositiveInt | None = Field(
        default=None,
        description="sequences per forward pass; None is all of the batch that a worker has",
    )
    learning_rate: PositiveFloat = 3e-3
    min_lr_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    decay_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.2, description="share of the steps in which wsd decays, at the end"
    )
    weight_decay: NonNegativeFloat = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    grad_clip: PositiveFloat = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    recompute: bool = False
    compile: bool = Field(
        default=False,
        description="by torch.compile: steps 8 to 24 % shorter on a CPU, after half a "
        "minute of compiling; evaluations are not compiled",
    )
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        micro = self.micro_batch_sequences
        if micro is not None and self.batch_sequences % micro:
            raise ValueError(
                f"batch_sequences={self.batch_sequences} is no multiple of "
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
    """Held-out evaluation: the first `tokens` of the validation part, in order.

    Beside it smaller samples: of single groups of documents, and of other numbers of experts.
    """

    tokens: PositiveInt = 65536
    batch_sequences: PositiveInt = 16
    groups: NonNegativeInt = Field(
        default=8, description="largest groups of documents that are scored apart; 0 is none"
    )
    group_tokens: PositiveInt = Field(default=4096, description="of every such group, at most")
    by_k: Literal["none", "powers", "every"] = Field(
        default="powers",
        description="also score with k experts a token: for powers of two, top_k and num_experts, "
        "or for every k up to num_experts, which costs num_experts passes",
    )
    by_k_tokens: PositiveInt = Field(default=4096, description="scored for each k, the same ones")
    routes: bool = Field(
        default=True, description="count experts that are chosen together and in succession"
    )
    every_steps: PositiveInt | None = Field(
        default=None, description="also while training, for the learning curve; None is not"
    )
    curve_tokens: PositiveInt = Field(
        default=8192, description="scored for a point of the learning curve, the same ones"
    )


class RuntimeSpec(Frozen):
    """Where and how it runs. `auto` is resolved once, printed and stored with the trial."""

    backend: Literal["auto", "reference", "torch", "triton", "triton_recompute"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: PositiveInt = Field(
        default=1, description="CPU threads of a worker; part of the trial's identity"
    )
    workers: PositiveInt = Field(
        default=1,
        description="processes that share each batch, a GPU each where there are GPUs; they sum "
        "in another order than one does, so their number is part of the trial's identity",
    )
    log_every: PositiveInt = 10
    checkpoint_every: PositiveInt = 50


class TrialSpec(Frozen):
    """One training run, complete: with the corpus digest and the core's version its identity."""

    model: ModelSpec
    data: DataSpec = PythonStdlib()
    balancer: Annotated[SerializeAsAny[BalancerSpec], BeforeValidator(parse_balancer)]
    train: TrainSpec
    eval: EvalSpec = EvalSpec()
    runtime: RuntimeSpec = RuntimeSpec()
    extends: str | None = Field(
        default=None,
        description="digest of a shorter trial, equal but for its steps, that this one goes on "
        "from; the learning rate follows the schedule of the new length from there",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        self._target_fits()
        self._vocabulary_fits()
        self._workers_share_batches()
        return self

    def _target_fits(self) -> None:
        target, model = self.balancer.target, self.model
        if target is None:
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

    def _vocabulary_fits(self) -> None:
        match self.data:
            case Synthetic(vocab_size=needed) | TextData(tokenizer=BpeTokenizer(vocab_size=needed)):
                pass
            case TextData(tokenizer=BytesTokenizer()):
                needed = 256
            case _:  # known only once the corpus is read
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

    def digest(self, corpus_digest: str, core_version: str) -> str:
        """16 hex digits over everything that can change the trial's numbers.

        Telemetry cadence is left out: it changes what is recorded, never what is computed.
        """
        content = self.model_dump(
            mode="json",
            exclude={
                "runtime": {"log_every", "checkpoint_every"},
                "eval": {"every_steps", "curve_tokens"},
            },
        )
        return sha256({"spec": content, "corpus": corpus_digest, "core": core_version})[:16]


def load_trial(path: Path) -> TrialSpec:
    """The trial that a YAML file describes.  Raises: SpecError"""
    return load(TrialSpec, path)
