"""The expert layer: fine-grained routed experts and shared ones.

Letters: N stacked trials, T tokens, E experts, D width, F expert width, G = 2F gate and up.
"""

import torch
from torch import Tensor, nn

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.kernels.ops import experts_of
from evenload.workers.model.contract import Adjust, Routed, Selects
from evenload.workers.model.layers import SwiGLU
from evenload.workers.model.router import Router
from evenload.workers.selection import NO_BINS, Bins


class MoE(nn.Module):
    """Routed experts plus `num_shared` shared ones that see every token. No token is dropped.

    Source: Dai et al. 2024, arXiv:2401.06066, eqs. (9)-(11).
    """

    def __init__(self, spec: ModelSpec, backend: str) -> None:
        super().__init__()
        experts, width, hidden = spec.num_experts, spec.d_model, spec.d_expert
        self.router = Router(spec, backend)
        self.gate_up_EGD = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.down_EDF = nn.Parameter(torch.empty(experts, width, hidden))
        # Shared experts have no gate, so together they are one wider SwiGLU.
        self.shared = SwiGLU(width, spec.num_shared * hidden) if spec.num_shared else None
        self._run_experts = experts_of(backend)

    def forward(
        self, x_TD: Tensor, bias_E: Tensor, adjust: Adjust, selects: Selects, bins: Bins = NO_BINS
    ) -> tuple[Tensor, Routed]:
        routed, rows = self.router(x_TD, bias_E, adjust, selects, bins)
        # The experts of stacked trials are flattened into one dimension, like their rows.
        flat_TD, gate_up_EGD = x_TD.flatten(0, -2), self.gate_up_EGD.flatten(0, -3)
        y_TD = self._run_experts(flat_TD, gate_up_EGD, self.down_EDF.flatten(0, -3), rows)
        y_TD = y_TD.view_as(x_TD)
        return (y_TD if self.shared is None else y_TD + self.shared(x_TD)), routed
