"""The spec of a trial. It is validated once here and trusted everywhere else."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

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
from evenload.pipeline.spec.load_shape import RunOutline
from evenload.pipeline.spec.other_models import HuggingFaceModel, OtherModel, PythonModel
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.spec_file import (
    Frozen,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    load,
    sha256,
)

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
