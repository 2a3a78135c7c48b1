"""Small MoE models in plain torch: every kind of router in a few lines, and what it truly chose.

Letters: B sequences, S tokens of a sequence, T tokens, E experts, K top-k, D width, V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

WORDS, WIDTH = 32, 16


class SoftmaxRouter(nn.Module):
    """No bias of its own. Keeps what it chose in training, recomputations excepted."""

    def __init__(self, experts: int = 8, top_k: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, WIDTH) * 0.5)
        self.top_k = top_k
        self.chosen: list[Tensor] = []

    def score(self, hidden_TD: Tensor) -> Tensor:
        return functional.linear(hidden_TD, self.weight).softmax(dim=-1, dtype=torch.float32)

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        weight_TK, expert_TK = self.score(hidden_TD).topk(self.top_k, dim=-1)
        return self.done(weight_TK, expert_TK, hidden_TD)

    def done(self, weight_TK: Tensor, expert_TK: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        if torch._C._current_graph_task_id() == -1:
            self.chosen.append(expert_TK)
        weight_TK = weight_TK / weight_TK.sum(dim=-1, keepdim=True)
        return weight_TK.to(like.dtype), expert_TK


class OwnBiasRouter(SoftmaxRouter):
    """Sigmoid scores and a selection bias in a buffer, as DeepSeek-V3."""

    def __init__(self, experts: int = 8, top_k: int = 2) -> None:
        super().__init__(experts, top_k)
        self.register_buffer("e_score_correction_bias", torch.zeros(experts))

    def score(self, hidden_TD: Tensor) -> Tensor:
        return functional.linear(hidden_TD.float(), self.weight.float()).sigmoid()

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        score_TE = self.score(hidden_TD)
        expert_TK = (score_TE + self.e_score_correction_bias).topk(self.top_k, dim=-1)[1]
        return self.done(score_TE.gather(-1, expert_TK), expert_TK, hidden_TD)


class GroupedRouter(OwnBiasRouter):
    """Groups first, by the sum of their two best, as DeepSeek-V3: half of the groups stay."""

    GROUPS = 4

    def forward(self, hidden_TD: Tensor) -> tuple[Tensor, Tensor]:
        score_TE = self.score(hidden_TD)
        biased_TGM = (score_TE + self.e_score_correction_bias).unflatten(-1, (self.GROUPS, -1))
        group_TG = biased_TGM.topk(2, dim=-1)[0].sum(dim=-1)
        chosen_TN = group_TG.topk(self.GROUPS // 2, dim=-1)[1]
        masked_TG = torch.ones_like(group_TG, dtype=torch.bool).scatter(-1, chosen_TN, False)
        masked_TGM = biased_TGM.masked_fill(masked_TG.unsqueeze(-1), -torch.inf)
        expert_TK = masked_TGM.flatten(-2).topk(self.top_k, dim=-1)[1]
        return self.done(score_TE.gather(-1, expert_TK), expert_TK, hidden_TD)


class Experts(nn.Module):
    def __init__(self, router: nn.Module, experts: int) -> None:
        super().__init__()
        self.gate = router
        self.weight = nn.Parameter(torch.randn(experts, WIDTH, WIDTH) * 0.2)

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        hidden_TD = hidden_BSD.flatten(0, 1)
        weight_TK, expert_TK = self.gate(hidden_TD)
        out_TED = torch.einsum("td,edf->tef", hidden_TD, self.weight)
        index_TKD = expert_TK.unsqueeze(-1).expand(-1, -1, WIDTH)
        out_TD = (out_TED.gather(1, index_TKD) * weight_TK.unsqueeze(-1)).sum(dim=1)
        return out_TD.view_as(hidden_BSD)


class Layer(nn.Module):
    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, hidden_BSD: Tensor) -> Tensor:
        return hidden_BSD + self.mlp(functional.layer_norm(hidden_BSD, [WIDTH]))


class Model(nn.Module):
    """Args: checkpointing: "reentrant", "non-reentrant" or none of them"""

    def __init__(self, layers: list[nn.Module], checkpointing: str = "") -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, WORDS)
        self.checkpointing = checkpointing

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden_BSD = self.embed(input_ids)
        for layer in self.layers:
            if self.checkpointing and self.training:
                reentrant = self.checkpointing == "reentrant"
                hidden_BSD = checkpoint(layer, hidden_BSD, use_reentrant=reentrant)
            else:
                hidden_BSD = layer(hidden_BSD)
        return self.head(hidden_BSD)

    def loss(self, token_BS: Tensor, mask_BS: Tensor | None = None) -> Tensor:
        logits_BSV = self(token_BS, attention_mask=mask_BS)
        loss_BS = functional.cross_entropy(
            logits_BSV[:, :-1].float().flatten(0, 1), token_BS[:, 1:].flatten(), reduction="none"
        )
        if mask_BS is not None:
            loss_BS = loss_BS * (mask_BS[:, 1:] > 0).flatten()
        return loss_BS.mean()


def moe_layer(experts: int = 8, top_k: int = 2, own_bias: bool = False) -> Layer:
    router = (OwnBiasRouter if own_bias else SoftmaxRouter)(experts, top_k)
    return Layer(Experts(router, experts))


def dense_layer() -> Layer:
    return Layer(nn.Linear(WIDTH, WIDTH))


def model(
    layers: int = 2,
    *,
    experts: int = 8,
    top_k: int = 2,
    own_bias: bool = False,
    checkpointing: str = "",
    seed: int = 0,
) -> Model:
    torch.manual_seed(seed)
    blocks: list[nn.Module] = [moe_layer(experts, top_k, own_bias) for _ in range(layers)]
    return Model(blocks, checkpointing)


def tokens(sequences: int = 4, length: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(WORDS, (sequences, length), generator=generator)


PROBE = tokens(2, 7, seed=99)


def routers_of(any_model: nn.Module) -> dict[str, Any]:
    return {n: m for n, m in any_model.named_modules() if isinstance(m, SoftmaxRouter)}


def chosen(any_model: nn.Module) -> dict[str, Tensor]:
    """Assignments per expert since the last call, as the routers themselves noted them."""
    counts = {}
    for name, router in routers_of(any_model).items():
        none = torch.zeros(0, dtype=torch.int64)
        expert_N = torch.cat([none, *(expert_TK.flatten() for expert_TK in router.chosen)])
        counts[name] = expert_N.bincount(minlength=len(router.weight))
        router.chosen.clear()
    return counts
