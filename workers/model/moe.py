"""Feed-forward layers: one dense SwiGLU, or fine-grained routed experts beside shared ones.

Letters: T tokens, E experts, D width, F expert width, G = 2F gate and up.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec import ModelSpec
from workers.kernels.ops import experts_of
from workers.model.router import Adjust, Routed, Router, Selects


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TF, up_TF = self.gate_up(x_TD).chunk(2, dim=-1)
        out_TD: Tensor = self.down(functional.silu(gate_TF) * up_TF)
        return out_TD


class MoE(nn.Module):
    """Routed experts plus `num_shared` shared ones that see every token. No token is dropped.

    Source: Dai et al. 2024, arXiv:2401.06066, eqs. (9)-(11).
    """

    def __init__(self, spec: ModelSpec, backend: str) -> None:
        super().__init__()
        experts, width, hidden = spec.num_experts, spec.d_model, spec.d_expert
        self.router = Router(spec)
        self.gate_up_EGD = nn.Parameter(torch.empty(experts, 2 * hidden, width))
        self.down_EDF = nn.Parameter(torch.empty(experts, width, hidden))
        # Shared experts have no gate: side by side they are one wider SwiGLU.
        self.shared = SwiGLU(width, spec.num_shared * hidden) if spec.num_shared else None
        self._run_experts = experts_of(backend)

    def forward(
        self, x_TD: Tensor, bias_E: Tensor, adjust: Adjust, selects: Selects
    ) -> tuple[Tensor, Routed]:
        routed, rows = self.router(x_TD, bias_E, adjust, selects)
        y_TD = self._run_experts(x_TD, self.gate_up_EGD, self.down_EDF, rows)
        return (y_TD if self.shared is None else y_TD + self.shared(x_TD)), routed
