"""Causal self-attention with rotary positions.

Letters: B sequences, S positions, D width, H heads, P width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec import ModelSpec


def rotation(num_positions: int, head_width: int, theta: float, device: torch.device) -> Tensor:
    """Cosine and sine of position * theta^(-2i/P), float32 (2, S, 1, P/2).

    Source: Su et al. 2021, arXiv:2104.09864, eq. (15).
    """
    pair = torch.arange(0, head_width, 2, device=device, dtype=torch.float32)
    position_S = torch.arange(num_positions, device=device, dtype=torch.float32)
    angle_SP = position_S[:, None] * theta ** (-pair / head_width)
    return torch.stack([angle_SP.cos(), angle_SP.sin()])[:, :, None]


def rotate(x_BSHP: Tensor, rotation: Tensor) -> Tensor:
    """Turns coordinate i together with i + P/2 by the angle of the position; in float32.

    Differs from the paper, which pairs neighbours: the same function up to the order of the
    learned coordinates, on contiguous halves.
    """
    cosine, sine = rotation
    first, second = x_BSHP.float().chunk(2, dim=-1)
    turned = [first * cosine - second * sine, second * cosine + first * sine]
    return torch.cat(turned, dim=-1).to(x_BSHP.dtype)


class Attention(nn.Module):
    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.qkv = nn.Linear(spec.d_model, 3 * spec.d_model, bias=False)
        self.out = nn.Linear(spec.d_model, spec.d_model, bias=False)
        self._num_heads = spec.num_heads

    def forward(self, x_BSD: Tensor, rotation: Tensor) -> Tensor:
        q, k, v = self.qkv(x_BSD).unflatten(-1, (3, self._num_heads, -1)).unbind(dim=-3)
        q, k = rotate(q, rotation), rotate(k, rotation)
        seen_BHSP = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
        )
        out_BSD: Tensor = self.out(seen_BHSP.transpose(1, 2).flatten(-2))
        return out_BSD
