"""Chooses the model type of transformers that computes the same as our model, and its config.

Three types have our attention (one key-value head per query head, rotary positions), norms and
experts. They differ in the gate, which decides:

    sigmoid                    glm4_moe      DeepSeek-V3's router without latent attention
    softmax, renormalised      ernie4_5_moe
    softmax, not renormalised  qwen2_moe     has no learned bias

Letters: L expert layers, E experts.
"""

from typing import Any, NamedTuple

from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.router import TINY


class ModelType(NamedTuple):
    """A type in transformers, and how to write the weights of a model for it."""

    name: str
    config: dict[str, Any]
    bias: str | None  # name of the learned bias below `mlp`; None: the type has none
    shared: str  # name of the shared experts below `mlp`
    splits_pairs: bool  # rotates coordinate j with j + P/2 instead of with its neighbour
    shared_width: int  # hidden width of the shared experts; extra width has zero weights
    expert_scale: float = 1.0  # scale of the routed experts, if the type's gate has none
    shared_scale: float = 1.0  # scale of the shared experts, to compensate a gate of the type


def model_type_of(spec: ModelSpec, bias_LE: Tensor, max_positions: int) -> ModelType:
    """The type that computes the same logits with this frozen bias, up to rounding.

    Args:     max_positions: length of the longest training sequence
    Raises:   SpecError: no type in transformers computes this model
    """
    make = {
        ("sigmoid", True): _glm4_moe,
        ("sigmoid", False): _glm4_moe,
        ("softmax", True): _ernie4_5_moe,
        ("softmax", False): _qwen2_moe,
    }.get((spec.gate, spec.renormalise))
    if make is None or (spec.num_groups > 1 and make is not _glm4_moe):
        raise SpecError(
            f"model.gate={spec.gate!r} with model.num_groups={spec.num_groups}: no model type of "
            "transformers has this router; train with gate: sigmoid, or softmax without groups"
        )
    if make is _qwen2_moe and bool(bias_LE.any()):
        raise SpecError(
            "model.gate='softmax' with model.renormalise=false: no model type of transformers "
            "has this gate and a learned bias; train with renormalise: true or with a rule "
            "that moves no bias"
        )
    if make is _glm4_moe and spec.num_experts == 1:
        raise SpecError(
            "model.num_experts=1: the router of glm4_moe compares at least two experts; train "
            "with two or more"
        )
    found = make(spec)
    config = {"model_type": found.name} | _shared_config(spec, max_positions) | found.config
    return found._replace(config=config)


def _shared_config(spec: ModelSpec, max_positions: int) -> dict[str, Any]:
    """The keys that all three types have."""
    return {
        "dtype": "float32",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": spec.d_dense,
        "moe_intermediate_size": spec.d_expert,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_heads,
        "head_dim": spec.d_model // spec.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": spec.norm_eps,
        "initializer_range": spec.init_std,
        "tie_word_embeddings": spec.tie_embeddings,
        "max_position_embeddings": max_positions,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": spec.rope_theta,
            "partial_rotary_factor": 1.0,
        },
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _glm4_moe(spec: ModelSpec) -> ModelType:
    # The type always has a shared expert. If our model has none, its weights are zero.
    shared = max(1, spec.num_shared)
    return ModelType(
        name="glm4_moe",
        config={
            "architectures": ["Glm4MoeForCausalLM"],
            "n_routed_experts": spec.num_experts,
            "num_experts_per_tok": spec.top_k,
            "n_shared_experts": shared,
            "first_k_dense_replace": spec.num_dense_layers,
            "norm_topk_prob": spec.renormalise,
            "routed_scaling_factor": spec.route_scale,
            "n_group": spec.num_groups,
            "topk_group": spec.top_groups,
            "attention_bias": False,
            "use_qk_norm": False,
            "num_nextn_predict_layers": 0,
        },
        bias="gate.e_score_correction_bias",
        shared="shared_experts",
        splits_pairs=True,
        shared_width=shared * spec.d_expert,
    )


def _ernie4_5_moe(spec: ModelSpec) -> ModelType:
    return ModelType(
        name="ernie4_5_moe",
        config={
            "architectures": ["Ernie4_5_MoeForCausalLM"],
            "moe_num_experts": spec.num_experts,
            "moe_k": spec.top_k,
            "moe_num_shared_experts": spec.num_shared,
            "moe_layer_start_index": spec.num_dense_layers,
            "moe_layer_end_index": spec.num_layers - 1,
            "moe_layer_interval": 1,
            "moe_norm_min": TINY,
            "use_bias": False,
        },
        bias="moe_statics.e_score_correction_bias",
        shared="shared_experts",
        splits_pairs=False,
        shared_width=spec.num_shared * spec.d_expert,
        expert_scale=spec.route_scale,
    )


def _qwen2_moe(spec: ModelSpec) -> ModelType:
    shared_width = max(1, spec.num_shared) * spec.d_expert
    return ModelType(
        name="qwen2_moe",
        config={
            "architectures": ["Qwen2MoeForCausalLM"],
            "num_experts": spec.num_experts,
            "num_experts_per_tok": spec.top_k,
            "shared_expert_intermediate_size": shared_width,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(spec.num_dense_layers)),
            "norm_topk_prob": False,
            "qkv_bias": False,
            "use_sliding_window": False,
        },
        bias=None,
        shared="shared_expert",
        splits_pairs=True,
        shared_width=shared_width,
        expert_scale=spec.route_scale,
        shared_scale=2.0,  # the gate of its shared expert, with zero weights, gives one half
    )
