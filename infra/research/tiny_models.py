"""Makes a small random model of every causal language model type in transformers with experts.

One table has the sizes for all types; a type uses the names that its config has. Further values of
a type are in `SPECIAL`.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

LAYERS = 3

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "vocab_size_per_layer_input": 64,
    "hidden_size_per_layer_input": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 32,
    "d_model": 32,
    "intermediate_size": 32,
    "ffn_hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "n_layers": LAYERS,
    "num_layers": LAYERS,
    "max_position_embeddings": 128,
    "max_seq_len": 128,
    # attention
    "num_attention_heads": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "sliding_window": 16,
    # recurrences
    "linear_num_heads": 2,
    "linear_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "mamba_n_heads": 4,
    "mamba_d_state": 8,
    "ssm_state_size": 8,
    "chunk_size": 16,
    # experts
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "moe_num_experts": 8,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_top_k": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "top_k_experts": 2,
    "n_group": 2,
    "topk_group": 1,
    "num_expert_group": 2,
    "moe_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "moe_num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "moe_layer_start_index": 1,
    "num_dense_layers": 1,
    "mlp_only_layers": [],
}

LINEAR_FIRST = {"layer_types": ["linear_attention", "full_attention", "full_attention"]}
SPARSE = {"mlp_layer_types": ["sparse"] * LAYERS}
GEMMA = {"enable_moe_block": True, "num_experts": 8, "top_k_experts": 2}
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "bailing_hybrid": LINEAR_FIRST,
    "beam": SPARSE,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 8, "moe_top_k": 2},
    },
    "deepseek_v2/groups": {"topk_method": "group_limited_greedy"},
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe", "moe"]},
    "doge": {"is_moe": True, "num_experts": 16},
    "gemma4": GEMMA,
    "gemma4_text": GEMMA,
    "granitemoehybrid": LINEAR_FIRST,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": LINEAR_FIRST,
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "full_attention"]},
    "longcat_flash": {"zero_expert_num": 4},
    "nemotron_h": {"n_groups": 2},
    "qwen3_5_moe": LINEAR_FIRST,
    "qwen3_5_moe_text": LINEAR_FIRST,
    "qwen3_next": LINEAR_FIRST,
    "qwen4_exp": LINEAR_FIRST | INDEXER,
    "qwen4_exp_text": LINEAR_FIRST | INDEXER,
    "zaya": {"num_experts_per_tok": 1},
}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "adapter_out_dim": 32,
}
# Additional values outside of the config of the language model.
AROUND: dict[str, dict[str, Any]] = {
    "dots3_note": {
        "vision_config": TOWER | {"adapter_in_dim": 32, "moe_intermediate_size": 8},
        "audio_config": TOWER | {"adapter_input_size": 32, "num_hidden_layers": 1},
    }
}


def expert_types() -> list[str]:
    """Types of causal language models with experts in transformers, and variants of them."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    def has_experts(model_type: str) -> bool:
        config = import_module(CONFIG_MAPPING[model_type].__module__)
        files = Path(str(config.__file__)).parent.glob("modeling_*.py")
        return any(re.search(r"class \w*(Experts|CDMoE)\b", file.read_text()) for file in files)

    types = [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if has_experts(name)]
    return sorted([*types, *(name for name in SPECIAL if "/" in name)])


def tiny_config(name: str, **changes: Any) -> Any:
    """A config with few and small layers.  Args: name: a model type, or one of its variants"""
    from transformers import CONFIG_MAPPING

    special = SPECIAL.get(name, {}) | changes
    model_type = name.partition("/")[0]
    known = CONFIG_MAPPING[model_type]()
    text = known.get_text_config()
    names = set(text.to_dict()) | set(type(text).attribute_map)
    sizes = {name: value for name, value in SIZES.items() if name in names}
    if "kv_lora_rank" in names:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    if text is known:
        return CONFIG_MAPPING[model_type](**(sizes | special))
    key = next(key for key in known.sub_configs if getattr(known, key, None) is text)
    return CONFIG_MAPPING[model_type](**{key: sizes | special}, **AROUND.get(model_type, {}))


def tiny_model(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """A model in training mode with random float32 weights from the seed."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model: nn.Module = AutoModelForCausalLM.from_config(tiny_config(name, **changes))
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.requires_grad and not parameter.any():
            nn.init.normal_(parameter, std=0.02)  # afmoe starts with routers of zeros
    return model.train()
