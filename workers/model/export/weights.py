"""Renames the weights of a trained model for a type in transformers.

Letters: E experts, D width, F expert width, G = 2F gate and up, H heads, P width of a head.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.export.model_types import ModelType

Weights = Mapping[str, Tensor]


def named_weights(
    spec: ModelSpec, kind: ModelType, weights: Weights, bias_LE: Tensor
) -> dict[str, Tensor]:
    """All tensors of the type, contiguous and without shared memory.

    Args:     weights: the `state_dict` of a `MoELanguageModel`
              bias_LE: the frozen bias for inference
    """
    named = {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.norm.weight": weights["norm.weight"],
    }
    if not spec.tie_embeddings:
        named["lm_head.weight"] = weights["head.weight"]
    for place in range(spec.num_dense_layers):
        block, layer = _below(weights, f"dense_blocks.{place}."), f"model.layers.{place}."
        named |= _prefixed(layer, _attention(spec, kind, block))
        named |= _prefixed(
            layer + "mlp.", _gated(block["ffn.gate_up.weight"], block["ffn.down.weight"])
        )
    for place, bias_E in enumerate(bias_LE.unbind()):
        block = _below(weights, f"expert_blocks.{place}.")
        layer = f"model.layers.{spec.num_dense_layers + place}."
        named |= _prefixed(layer, _attention(spec, kind, block))
        named |= _prefixed(layer + "mlp.", _experts(kind, _below(block, "ffn."), bias_E))
    return {name: weight.detach().clone().contiguous() for name, weight in named.items()}


def _below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def _prefixed(prefix: str, weights: Weights) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


def _attention(spec: ModelSpec, kind: ModelType, block: Weights) -> dict[str, Tensor]:
    q_DD, k_DD, v_DD = block["attention.qkv.weight"].chunk(3)
    if kind.splits_pairs:
        q_DD, k_DD = (_split_pairs(side_DD, spec.num_heads) for side_DD in (q_DD, k_DD))
    return {
        "input_layernorm.weight": block["attention_norm.weight"],
        "post_attention_layernorm.weight": block["ffn_norm.weight"],
        "self_attn.q_proj.weight": q_DD,
        "self_attn.k_proj.weight": k_DD,
        "self_attn.v_proj.weight": v_DD,
        "self_attn.o_proj.weight": block["attention.out.weight"],
    }


def _split_pairs(weight_DD: Tensor, num_heads: int) -> Tensor:
    """Reorders the rows of each head: the first coordinates of all rotary pairs come first.

    Products of queries and keys do not depend on an order that both share.
    """
    pair_HP2D = weight_DD.unflatten(0, (num_heads, -1, 2))
    return pair_HP2D.transpose(1, 2).flatten(0, 2)


def _gated(gate_up_GD: Tensor, down_DF: Tensor) -> dict[str, Tensor]:
    gate_FD, up_FD = gate_up_GD.chunk(2)
    return {"gate_proj.weight": gate_FD, "up_proj.weight": up_FD, "down_proj.weight": down_DF}


def _experts(kind: ModelType, ffn: Weights, bias_E: Tensor) -> dict[str, Tensor]:
    named = {"gate.weight": ffn["router.weight_ED"]}
    if kind.bias is not None:
        # ernie4_5_moe stores its bias as one row.
        named[kind.bias] = bias_E[None] if kind.name == "ernie4_5_moe" else bias_E
    down_EDF = ffn["down_EDF"] * kind.expert_scale
    for expert, (gate_up_GD, down_DF) in enumerate(zip(ffn["gate_up_EGD"], down_EDF, strict=True)):
        named |= _prefixed(f"experts.{expert}.", _gated(gate_up_GD, down_DF))
    return named | _shared(kind, ffn)


def _shared(kind: ModelType, ffn: Weights) -> dict[str, Tensor]:
    """The shared experts; zeros if only the type has one, so that it adds nothing."""
    router_ED, width = ffn["router.weight_ED"], kind.shared_width
    if width == 0:
        return {}
    d_model = router_ED.shape[1]
    gate_up_GD = ffn.get("shared.gate_up.weight", router_ED.new_zeros(2 * width, d_model))
    down_DF = ffn.get("shared.down.weight", router_ED.new_zeros(d_model, width))
    named = _prefixed(f"{kind.shared}.", _gated(gate_up_GD, down_DF * kind.shared_scale))
    if kind.name == "qwen2_moe":
        named[f"{kind.shared}_gate.weight"] = torch.zeros_like(router_ED[:1])
    return named
