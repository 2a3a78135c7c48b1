"""Writes a model with added biases as an equivalent type that has a bias of its own.

One pair of types is equivalent: Mixtral selects on softmax scores and normalises the chosen ones,
as ERNIE 4.5 does, which adds a selection bias. Their rotary embeddings differ in the order of the
dimensions only, so the rows of the query and key weights are reordered.

Letters: E experts, H rows of a head, D width.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evenload.workers.attach.bias import ADDED
from evenload.workers.attach.errors import AttachError

SHARED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "pad_token_id",
    "bos_token_id", "eos_token_id", "tie_word_embeddings", "rope_parameters", "head_dim",
)  # fmt: skip


def export(model: nn.Module, folder: str | Path) -> None:
    """Writes a folder that plain transformers, vLLM and SGLang read, biases included.

    Raises:   AttachError: no type with a bias is equivalent
    """
    from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

    config: Any = getattr(model, "config", None)
    _check(config)
    shared = {name: getattr(config, name) for name in SHARED}
    target = Ernie4_5_MoeConfig(
        **shared,
        moe_intermediate_size=config.intermediate_size,
        moe_num_experts=config.num_local_experts,
        moe_k=config.num_experts_per_tok,
        moe_num_shared_experts=0,
        moe_layer_start_index=0,
    )
    with torch.device("meta"):
        written = Ernie4_5_MoeForCausalLM(target)
    weights = {_renamed(n): _reordered(n, w, config) for n, w in model.state_dict().items()}
    written.load_state_dict(weights, assign=True)
    written.save_pretrained(folder)


def _check(config: Any) -> None:
    model_type = getattr(config, "model_type", None)
    if model_type != "mixtral":
        raise AttachError(
            f"no type of transformers is {model_type!r} with a selection bias: train with "
            "added_bias='fade', or keep the biases beside the weights with balance.save(folder)"
        )
    if config.sliding_window is not None:
        raise AttachError(
            f"sliding_window={config.sliding_window}: ERNIE 4.5 attends to everything; set it to "
            "None if the sequences are shorter than the window"
        )


def _renamed(name: str) -> str:
    return name.replace(f"gate.{ADDED}", "gate.moe_statics.e_score_correction_bias")


def _reordered(name: str, weight: Tensor, config: Any) -> Tensor:
    """Rotated pairs lie half a head apart in Mixtral and side by side in ERNIE."""
    if name.endswith(ADDED):
        return weight.detach()[None]
    if name.endswith("gate.weight"):
        return weight.detach().float()
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight.detach()
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    heads_2HD = weight.detach().unflatten(0, (-1, 2, head_dim // 2))
    return heads_2HD.transpose(1, 2).reshape_as(weight)
