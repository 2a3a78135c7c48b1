"""Parameters, FLOPs, memory and disk space of a model, without torch.

Those of evenload's own model are computed from its spec, and are exact. Those of other models were
counted when the model was built, and are stored in its spec.

Letters: T tokens, S positions, V vocabulary, D width, F expert width, E experts, K top-k.
"""

from dataclasses import dataclass

from evenload.pipeline.spec.other_models import OtherModel
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.trial import Model, TrainSpec

FLOAT = 4  # bytes
CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class OwnSize:
    """The figures of evenload's own model, from its dimensions."""

    model: ModelSpec

    @property
    def parameters(self) -> int:
        """The exact number of weights."""
        idle = self.model.num_experts - self.model.top_k
        return self.active_parameters + idle * self._expert * self.model.num_moe_layers

    @property
    def active_parameters(self) -> int:
        """The number of weights that one token uses: all but those of unchosen experts."""
        head = 0 if self.model.tie_embeddings else self._embedding
        return self._embedding + head + self._norms + self._block_matrices

    def forward_flops_per_token(self, seq_len: int) -> int:
        """2 FLOPs per weight of every matrix product, and 2 D (S + 1) per layer for attention.

        A query has (S + 1) / 2 keys on average, with 4 D FLOPs each; masked pairs cost nothing.
        Element-wise operations and the look-up of embeddings are left out.
        """
        attention = 2 * self.model.d_model * (seq_len + 1) * self.model.num_layers
        return 2 * (self._block_matrices + self._embedding) + attention

    @property
    def routed_flops_per_token(self) -> int:
        """The part of `forward_flops_per_token` that the chosen experts need."""
        return 2 * self.model.top_k * self._expert * self.model.num_moe_layers

    def train_flops_per_token(self, seq_len: int) -> int:
        """Three times the forward FLOPs, without those of recomputation."""
        return 3 * self.forward_flops_per_token(seq_len)

    def train_memory_bytes(self, train: TrainSpec) -> int:
        """Memory of weights, gradients and two AdamW moments in float32, and of the activations
        that one micro-batch keeps for the backward pass.

        bf16 adds a copy of the weights. Logits never exist all at once. The result is exact to a
        few percent for the torch back end on a CPU, without the memory of the framework.
        """
        low = 2 if train.precision == "bfloat16" else FLOAT
        weights = (4 * FLOAT + low % FLOAT) * self.parameters
        tokens = train.tokens_per_step // train.num_micro_batches
        return weights + tokens * self._activation_bytes(low, train.recompute)

    def disk_bytes(self, steps: int) -> int:
        """Size of two checkpoints with weights and AdamW moments, and of an int32 count and a
        float32 bias per step and expert, without compression."""
        return _disk_bytes(self.model, steps, 3 * FLOAT * self.parameters)

    @property
    def _embedding(self) -> int:
        return self.model.vocab_size * self.model.d_model

    @property
    def _expert(self) -> int:
        return 3 * self.model.d_model * self.model.d_expert

    @property
    def _norms(self) -> int:
        return (2 * self.model.num_layers + 1) * self.model.d_model

    @property
    def _block_matrices(self) -> int:
        """The number of weights of the matrices that one token is multiplied with, but the head."""
        model = self.model
        attention = 4 * model.d_model**2 * model.num_layers
        dense = 3 * model.d_model * model.d_dense * model.num_dense_layers
        router = model.num_experts * model.d_model
        experts = (model.top_k + model.num_shared) * self._expert
        return attention + dense + (router + experts) * model.num_moe_layers

    def _activation_bytes(self, low: int, recompute: bool) -> int:
        """Bytes per token.  Args: low: size in bytes of a value in a matrix product"""
        model = self.model
        # Two norms (input; output) and attention (q, k, v, buffer, output).
        block = (2 * FLOAT + 8 * low) * model.d_model
        dense = block + self._swiglu_values(low) * low * model.d_dense
        expert = block + self._expert_layer_bytes(low)
        last = (FLOAT + 2 * low) * model.d_model  # the last norm, and the head with its gradient
        if recompute:
            # The inputs of all blocks are kept, and all activations of one block at a time.
            return last + FLOAT * model.d_model * model.num_layers + max(dense, expert)
        return last + dense * model.num_dense_layers + expert * model.num_moe_layers

    def _swiglu_values(self, low: int) -> int:
        """Values kept per hidden unit: gate, up and product; in bf16 also silu."""
        return 3 if low == FLOAT else 4

    def _expert_layer_bytes(self, low: int) -> int:
        """Bytes per token of an expert layer: rows before, in and after SwiGLU (2F gate and up; in
        bf16 also F silu and F product; F weighted), scores, indices, and the shared experts."""
        model = self.model
        swiglu = 2 if low == FLOAT else 4
        row = low * (model.d_model + model.d_expert) + swiglu * FLOAT * model.d_expert
        routing = FLOAT * (model.num_experts + 1) + 48 * model.top_k
        shared = self._swiglu_values(low) * low * model.d_expert * model.num_shared
        return model.top_k * row + routing + shared


@dataclass(frozen=True)
class CountedSize:
    """The figures of another's model, as counted when it was built; as those of `OwnSize`."""

    model: OtherModel

    @property
    def parameters(self) -> int:
        return self.model.found.parameters

    @property
    def active_parameters(self) -> int:
        found = self.model.found
        return found.parameters - round(self._idle_share * found.expert_parameters)

    @property
    def routed_flops_per_token(self) -> int:
        return round(2 * (1 - self._idle_share) * self.model.found.expert_parameters)

    def forward_flops_per_token(self, seq_len: int) -> int:
        """FLOPs of the matrix products of one pass; attention counts masked pairs, too."""
        fixed, by_length = self.model.found.flops
        return round(fixed + by_length * seq_len)

    def train_flops_per_token(self, seq_len: int) -> int:
        return 3 * self.forward_flops_per_token(seq_len)

    def train_memory_bytes(self, train: TrainSpec) -> int:
        """Memory of weights, gradients and two AdamW moments. Activations are not known."""
        return 4 * self._weight_bytes

    def disk_bytes(self, steps: int) -> int:
        return _disk_bytes(self.model, steps, 3 * self._weight_bytes)

    @property
    def _idle_share(self) -> float:
        return 1 - self.model.found.top_k / self.model.found.num_experts

    @property
    def _weight_bytes(self) -> int:
        return (2 if self.model.dtype == "bfloat16" else FLOAT) * self.parameters


def model_size(model: Model) -> OwnSize | CountedSize:
    return CountedSize(model) if isinstance(model, OtherModel) else OwnSize(model)


def _disk_bytes(model: Model | OtherModel, steps: int, checkpoint: int) -> int:
    counts = steps * model.num_moe_layers * model.num_experts * 2 * FLOAT
    return CHECKPOINTS_KEPT * checkpoint + counts
