"""Products, norms and activations for one trial or for several stacked trials.

The weights of a single trial have the shape in their suffix. Weights and activations of stacked
trials (see `workers.training.stacked`) have one more dimension N in front; each trial uses its own
weights.
Letters: N stacked trials, D width in, O width out, F hidden width, G = 2F gate and up.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from evenload.workers.kernels import cpu_passes


def product(x_D: Tensor, weight_OD: Tensor) -> Tensor:
    """x @ weight^T over the last dimension, trial by trial if the weight is stacked."""
    if weight_OD.ndim == 2:
        return functional.linear(x_D, weight_OD)
    flat_NTO = torch.matmul(x_D.flatten(1, -2), weight_OD.mT)
    return flat_NTO.unflatten(1, x_D.shape[1:-1])


def swiglu(gate_up_G: Tensor) -> Tensor:
    """silu(gate) * up.  Source: Shazeer 2020, arXiv:2002.05202, eq. (6)."""
    if cpu_passes.applies_to(gate_up_G):
        return cpu_passes.SwiGlu.apply(gate_up_G, None)
    gate_F, up_F = gate_up_G.chunk(2, dim=-1)
    return functional.silu(gate_F) * up_F


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight.  Source: Zhang and Sennrich 2019, arXiv:1910.07467."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self._eps = eps

    def forward(self, x_D: Tensor) -> Tensor:
        weight = self.weight
        if cpu_passes.applies_to(x_D):
            return cpu_passes.RmsNorm.apply(x_D, weight, self._eps)
        if weight.ndim == 1:
            return functional.rms_norm(x_D, weight.shape, weight, self._eps)
        plain_D = functional.rms_norm(x_D, weight.shape[1:], None, self._eps)
        return plain_D * weight.view(len(weight), *[1] * (x_D.ndim - 2), -1)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, d_model: int, d_hidden: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_hidden, bias=False)
        self.down = nn.Linear(d_hidden, d_model, bias=False)

    def forward(self, x_D: Tensor) -> Tensor:
        return product(swiglu(product(x_D, self.gate_up.weight)), self.down.weight)
