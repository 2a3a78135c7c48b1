"""Tiny models of others: folders as `save_pretrained` writes them, and functions that build one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

COMMON: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # large enough to avoid ties in the routing
}


def folder_of(kind: str, folder: Path, **changes: Any) -> Path:
    """A folder with the configuration of a tiny model: qwen3_moe, deepseek_v3, mixtral, gpt_oss,
    deepseek_v2 or llama, which has no experts."""
    import transformers

    name, own = {
        "qwen3_moe": (  # experts, dense, experts
            "Qwen3MoeConfig",
            {
                "intermediate_size": 48,
                "moe_intermediate_size": 16,
                "num_hidden_layers": 3,
                "mlp_only_layers": [1],
                "num_experts": 8,
                "num_experts_per_tok": 2,
                "head_dim": 8,
            },
        ),
        "deepseek_v3": ("DeepseekV3Config", _mla(n_routed_experts=8, n_group=2, topk_group=1)),
        "deepseek_v2": (
            "DeepseekV2Config",
            _mla(n_routed_experts=8, n_group=2, topk_group=1, topk_method="group_limited_greedy"),
        ),
        "mixtral": (
            "MixtralConfig",
            {
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
            },
        ),
        "gpt_oss": (
            "GptOssConfig",
            {
                "intermediate_size": 24,
                "num_hidden_layers": 2,
                "num_local_experts": 8,
                "num_experts_per_tok": 2,
                "head_dim": 8,
            },
        ),
        "llama": ("LlamaConfig", {"intermediate_size": 24, "num_hidden_layers": 2}),
    }[kind]
    config = getattr(transformers, name)(**COMMON | own | changes)
    config.save_pretrained(folder)
    return folder


def _mla(**experts: Any) -> dict[str, Any]:
    return {
        "intermediate_size": 48,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        **experts,
    }


class Router(nn.Module):
    def __init__(self, width: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, num_experts, bias=False)
        self.top_k = top_k

    def forward(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        score_BSE = self.score(x_BSD).sigmoid()
        weight_BSK, expert_BSK = score_BSE.topk(self.top_k, dim=-1)
        return weight_BSK / weight_BSK.sum(dim=-1, keepdim=True), expert_BSK


class Experts(nn.Module):
    def __init__(self, width: int, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.router = Router(width, num_experts, top_k)
        self.experts = nn.ModuleList(nn.Linear(width, width) for _ in range(num_experts))

    def forward(self, x_BSD: Tensor) -> Tensor:
        weight_BSK, expert_BSK = self.router(x_BSD)
        out_BSED = torch.stack([expert(x_BSD) for expert in self.experts], dim=-2)
        index_BSKD = expert_BSK.unsqueeze(-1).expand(*expert_BSK.shape, x_BSD.shape[-1])
        return (out_BSED.gather(-2, index_BSKD) * weight_BSK.unsqueeze(-1)).sum(dim=-2)


class Model(nn.Module):
    """A model without attention; its middle layer has no experts."""

    def __init__(self, width: int, num_experts: int, top_k: int, words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.layers = nn.ModuleList(
            nn.Linear(width, width) if layer == 1 else Experts(width, num_experts, top_k)
            for layer in range(3)
        )
        self.head = nn.Linear(width, words, bias=False)

    def forward(self, token_BS: Tensor) -> Tensor:
        x_BSD = self.embed(token_BS)
        for layer in self.layers:
            x_BSD = x_BSD + layer(functional.layer_norm(x_BSD, x_BSD.shape[-1:]))
        return self.head(x_BSD)


def mixture(num_experts: int = 8, top_k: int = 2, width: int = 16, words: int = 48) -> nn.Module:
    return Model(width, num_experts, top_k, words)


def dense(words: int = 48) -> nn.Module:
    return nn.Sequential(nn.Embedding(words, 8), nn.Linear(8, words))


def number() -> int:
    return 3


class Careful(Model):
    """Looks at the values of its input, which a meta device does not have."""

    def forward(self, token_BS: Tensor) -> Tensor:
        assert int(token_BS.max()) < self.embed.num_embeddings
        return super().forward(token_BS)


def careful(words: int = 48) -> nn.Module:
    return Careful(16, 8, 2, words)


def nothing() -> nn.Module:
    return nn.Identity()
