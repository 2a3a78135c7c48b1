"""The language model: takes tokens, returns logits and the decisions of every expert layer.

Stacked trials (see `workers.training.stacked`) have one more dimension N in front of the weights;
their tokens have the shape (N, B, S) and their biases (L, N, E).
Letters: B sequences, S positions, V vocabulary, D width, L expert layers, E experts.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.kernels.linear_cross_entropy import linear_cross_entropy
from evenload.workers.kernels.torch_experts import compute_dtype
from evenload.workers.model.attention import Attention, rotation
from evenload.workers.model.contract import Adjust, Routed, RoutedModel, Selects
from evenload.workers.model.layers import RMSNorm, SwiGLU, product
from evenload.workers.model.moe import MoE
from evenload.workers.model.router import Router
from evenload.workers.selection import NO_BINS, Bins


class ModelOutput(NamedTuple):
    hidden_BSD: Tensor  # input of the head, in the dtype of its product
    head_VD: Tensor
    routed: tuple[Routed, ...]  # one per expert layer

    @property
    def logits_BSV(self) -> Tensor:
        """Computed at every access. Training never holds all logits: see `linear_cross_entropy`."""
        return product(self.hidden_BSD, self.head_VD.to(self.hidden_BSD.dtype))

    def loss(self, target_BS: Tensor) -> Tensor:
        """`next_token_loss` of the logits, without computing all logits at once."""
        hidden_1TD, target_1T = self.hidden_BSD.flatten(0, 1)[None], target_BS.flatten()[None]
        return linear_cross_entropy(hidden_1TD, self.head_VD[None], target_1T)[0]


class DenseBlock(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(spec.d_model, spec.norm_eps)
        self.attention = Attention(spec)
        self.ffn_norm = RMSNorm(spec.d_model, spec.norm_eps)
        self.ffn = SwiGLU(spec.d_model, spec.d_dense)

    def forward(self, x_BSD: Tensor, rotation: Tensor) -> Tensor:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotation)
        return x_BSD + self.ffn(self.ffn_norm(x_BSD))


class ExpertBlock(nn.Module):
    def __init__(self, spec: ModelSpec, backend: str) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(spec.d_model, spec.norm_eps)
        self.attention = Attention(spec)
        self.ffn_norm = RMSNorm(spec.d_model, spec.norm_eps)
        self.ffn = MoE(spec, backend)

    def forward(
        self,
        x_BSD: Tensor,
        rotation: Tensor,
        bias_E: Tensor,
        adjust: Adjust,
        selects: Selects,
        bins: Bins = NO_BINS,
    ) -> tuple[Tensor, Routed]:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), rotation)
        x_TD = self.ffn_norm(x_BSD).flatten(-3, -2)
        y_TD, routed = self.ffn(x_TD, bias_E, adjust, selects, bins)
        return x_BSD + y_TD.view_as(x_BSD), routed


class MoELanguageModel(RoutedModel):
    """DeepSeekMoE (Dai et al. 2024, arXiv:2401.06066): dense layers first, then expert layers.

    All weights start normal with `init_std`.

    Raises:   SpecError: the back end is unknown
    """

    def __init__(self, spec: ModelSpec, backend: str, recompute: bool = False) -> None:
        super().__init__()
        self._spec, self._backend, self._recompute = spec, backend, recompute
        self.embedding = nn.Embedding(spec.vocab_size, spec.d_model)
        self.dense_blocks = nn.ModuleList(DenseBlock(spec) for _ in range(spec.num_dense_layers))
        self.expert_blocks = nn.ModuleList(
            ExpertBlock(spec, backend) for _ in range(spec.num_moe_layers)
        )
        self.norm = RMSNorm(spec.d_model, spec.norm_eps)
        self.head = nn.Linear(spec.d_model, spec.vocab_size, bias=False)
        if spec.tie_embeddings:
            self.head.weight = self.embedding.weight
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=spec.init_std)

    def forward(
        self,
        token_BS: Tensor,
        bias_LE: Tensor,
        adjust: Adjust = torch.add,
        selects: Selects = "tokens",
        bins: Bins = NO_BINS,
    ) -> ModelOutput:
        width, theta = self._spec.d_model // self._spec.num_heads, self._spec.rope_theta
        turn = rotation(token_BS.shape[-1], width, theta, token_BS.device)
        x_BSD = self._embed(token_BS)
        routed = []
        for block in self.dense_blocks:
            x_BSD = self._run(block, x_BSD, turn)
        for block, bias_E in zip(self.expert_blocks, bias_LE.unbind(), strict=True):
            x_BSD, decision = self._run(block, x_BSD, turn, bias_E, adjust, selects, bins)
            routed.append(decision)
        hidden_BSD = self.norm(x_BSD).to(compute_dtype(x_BSD))
        return ModelOutput(hidden_BSD, self.head.weight, tuple(routed))

    def routers(self) -> Iterator[Router]:
        return (module for module in self.modules() if isinstance(module, Router))

    def with_top_k(self, top_k: int) -> "MoELanguageModel":
        with torch.device("meta"):
            spec = self._spec.model_copy(update={"top_k": top_k})
            model = MoELanguageModel(spec, self._backend)
        model.load_state_dict(self.state_dict(), assign=True)
        return model

    def _embed(self, token_BS: Tensor) -> Tensor:
        weight = self.embedding.weight
        if weight.ndim == 2:
            return functional.embedding(token_BS, weight)
        first_N = torch.arange(len(weight), device=token_BS.device) * weight.shape[1]
        return functional.embedding(token_BS + first_N.view(-1, 1, 1), weight.flatten(0, 1))

    def _run(self, block: nn.Module, *args: object) -> Any:
        """Runs the block. With `recompute`, the backward pass computes its activations again."""
        if self._recompute and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


def build(spec: TrialSpec) -> MoELanguageModel:
    return MoELanguageModel(spec.own_model, spec.runtime.backend, recompute=spec.train.recompute)
