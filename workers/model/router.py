"""Scores, selection and gate weights, always in float32.

In bf16 many scores tie, and then the order of the experts would decide the load. Under autocast a
back end may compute the logits with its own product, which errs by 2^-17 instead of 2^-24.
Tensors with a T or an E have one more dimension in front for stacked trials.
Letters: N stacked trials, T tokens, E experts, K top-k, D width, R rows
(assignments), C rows of one expert, B bins of the margins, G groups of experts.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.kernels.ops import Product, router_of, router_product_of
from evenload.workers.kernels.routing import Gate
from evenload.workers.kernels.rows import Rows, count_experts, rows_of_tokens, rows_per_expert
from evenload.workers.model.contract import Adjust, Routed, Selects
from evenload.workers.model.layers import product
from evenload.workers.selection import NO_BINS, Bins, add_bias

TINY = 1e-20  # avoids 0 / 0, because all sigmoid scores may underflow
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logit_TE: logit_TE.softmax(dim=-1),
    # The gradient of a square root is infinite at 0, which softplus reaches in float32.
    "sqrt_softplus": lambda logit_TE: (functional.softplus(logit_TE) + TINY).sqrt(),
}


class Router(nn.Module):
    """Gate scores of a linear layer. The biased score selects, the plain score weights.

    Source: Wang et al. 2024, arXiv:2408.15664, eq. (3); DeepSeek-AI 2024, arXiv:2412.19437,
    eqs. (12)-(16) and its section 2.1.2 (groups); Zhou et al. 2022, arXiv:2202.09368, eqs. (1)-(2)
    (experts choose tokens).
    """

    def __init__(self, spec: ModelSpec, backend: str = "torch") -> None:
        super().__init__()
        has_kernel = spec.gate in ("sigmoid", "softmax") and spec.num_groups == 1
        self._route = router_of(backend) if has_kernel else None
        self._fast_product = router_product_of(backend)
        self.weight_ED = nn.Parameter(torch.empty(spec.num_experts, spec.d_model))
        softmax = spec.gate == "softmax"
        self._gate = Gate(spec.top_k, softmax, spec.renormalise, spec.route_scale)
        self._score = SCORES[spec.gate]
        self._groups, self._top_groups = spec.num_groups, spec.top_groups

    def forward(
        self, x_TD: Tensor, bias_E: Tensor, adjust: Adjust, selects: Selects, bins: Bins = NO_BINS
    ) -> tuple[Routed, Rows]:
        """Args:
        adjust: (score_TE, bias_E) -> the score that selects; called without gradient
        bins:   a router kernel, if there is one, also counts the margins in these bins
        """
        device = x_TD.device.type
        fast = self._fast_product if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            logit_TE = self._logits(x_TD, fast)
            # The kernel can only add a bias, so it needs `add_bias` itself.
            if self._route and adjust is add_bias and selects == "tokens" and x_TD.ndim == 2:
                routed = self._route(logit_TE, bias_E, self._gate, bins)
                return Routed(*routed[:4], routed.margin_E2B), routed.rows
            score_TE = self._score(logit_TE)
            with torch.no_grad():
                adjusted_TE = self._without_lost_groups(adjust(score_TE.detach(), bias_E))
            choose = self._tokens_choose if selects == "tokens" else self._experts_choose
            return choose(score_TE, adjusted_TE)

    def _logits(self, x_TD: Tensor, fast: Product | None) -> Tensor:
        x_TD, weight_ED = x_TD.float(), self.weight_ED.float()
        if fast is None or x_TD.ndim > 2:  # stacked trials have one weight each
            return product(x_TD, weight_ED)
        return fast(x_TD.contiguous(), weight_ED.contiguous())

    def _without_lost_groups(self, adjusted_TE: Tensor) -> Tensor:
        """Leaves each token the groups with the largest sum of two scores; others get -inf."""
        if self._groups == 1:
            return adjusted_TE
        adjusted_TGE = adjusted_TE.unflatten(-1, (self._groups, -1))
        best_TG = adjusted_TGE.topk(2, dim=-1).values.sum(dim=-1)
        kept_TG = torch.zeros_like(best_TG, dtype=torch.bool)
        kept_TG.scatter_(-1, best_TG.topk(self._top_groups, dim=-1).indices, True)
        return adjusted_TGE.masked_fill(~kept_TG.unsqueeze(-1), -torch.inf).flatten(-2)

    def _tokens_choose(self, score_TE: Tensor, adjusted_TE: Tensor) -> tuple[Routed, Rows]:
        expert_TK = adjusted_TE.topk(self._gate.top_k, dim=-1).indices
        weight_TK = score_TE.gather(-1, expert_TK)
        if self._gate.renormalise:
            weight_TK = weight_TK / (weight_TK.sum(dim=-1, keepdim=True) + TINY)
        weight_TK = weight_TK * self._gate.route_scale
        flat_TK = _flatten_trials(expert_TK, score_TE.shape[-1])
        count_E = count_experts(flat_TK, score_TE.shape[:-2].numel() * score_TE.shape[-1])
        rows = rows_of_tokens(flat_TK, weight_TK.flatten(0, -2), count_E)
        count_E = count_E.view(*score_TE.shape[:-2], -1)
        return Routed(score_TE, expert_TK, weight_TK, count_E), rows

    def _experts_choose(self, score_TE: Tensor, adjusted_TE: Tensor) -> tuple[Routed, Rows]:
        num_tokens, num_experts = score_TE.shape
        room = rows_per_expert(num_tokens * self._gate.top_k, num_experts)
        choice_EC = adjusted_TE.mT.topk(room[0], dim=-1).indices
        token_R = torch.cat([choice_EC[expert, :rows] for expert, rows in enumerate(room)])
        count_E = torch.tensor(room, device=score_TE.device)
        expert_R = torch.arange(num_experts, device=score_TE.device).repeat_interleave(
            count_E, output_size=len(token_R)
        )
        weight_R = score_TE[token_R, expert_R]
        if self._gate.renormalise:
            sum_T = weight_R.new_zeros(num_tokens).index_add(0, token_R, weight_R)
            weight_R = weight_R / (sum_T[token_R] + TINY)
        weight_R = weight_R * self._gate.route_scale
        shape = (num_tokens, self._gate.top_k)
        routed = Routed(score_TE, expert_R.view(shape), weight_R.view(shape), count_E)
        return routed, Rows(token_R, weight_R, count_E, row_TK=None)


def _flatten_trials(expert_TK: Tensor, num_experts: int) -> Tensor:
    """Puts the tokens of all trials into one dimension; expert e of trial n becomes n E + e."""
    if expert_TK.ndim == 2:
        return expert_TK
    first_N = torch.arange(len(expert_TK), device=expert_TK.device) * num_experts
    return (expert_TK + first_N.view(-1, 1, 1)).flatten(0, 1)
