"""Letters: B sequences, S positions, D width, H heads, P width of a head."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.attention import Attention, rotate, rotation

CPU = torch.device("cpu")


def test_products_depend_only_on_the_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator)
    turned_query = rotate(query.expand(1, 50, 1, 8), rotation(50, 8, 10000.0, CPU))[0, :, 0]
    turned_key = rotate(key.expand(1, 50, 1, 8), rotation(50, 8, 10000.0, CPU))[0, :, 0]
    product_SS = turned_query @ turned_key.T
    for distance in (0, 1, 7, 30):
        along = product_SS.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-4)
    assert abs(product_SS[7, 0] - product_SS[0, 0]) > 0.1


def test_pairs_turn_by_position_times_their_frequency() -> None:
    x = torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(1, 4, 1, 4)
    turned_SP = rotate(x, rotation(4, 4, 100.0, CPU))[0, :, 0]
    for position in range(4):
        fast, slow = position * 1.0, position * 100.0**-0.5
        expected = [math.cos(fast), math.sin(fast), math.cos(slow), math.sin(slow)]
        torch.testing.assert_close(turned_SP[position], torch.tensor(expected))


def test_turning_keeps_lengths_and_dtype() -> None:
    x = torch.randn(2, 9, 3, 16, generator=torch.Generator().manual_seed(0))
    turn = rotation(9, 16, 10000.0, CPU)
    torch.testing.assert_close(rotate(x, turn).norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), turn).dtype == torch.bfloat16


def one_head(layer: Attention, x_SD: Tensor, head: int) -> Tensor:
    """Softmax attention over earlier positions with rotated queries and keys; (S, P)."""
    width = x_SD.shape[-1] // 2
    q, k, v = (
        (x_SD @ weight.T)[:, head * width : (head + 1) * width]
        for weight in layer.qkv.weight.chunk(3)
    )
    turn = rotation(len(x_SD), width, 10000.0, CPU)
    q, k = (rotate(side[None, :, None], turn)[0, :, 0] for side in (q, k))
    seen = []
    for position in range(len(x_SD)):
        score = k[: position + 1] @ q[position] / math.sqrt(width)
        seen.append(score.softmax(dim=0) @ v[: position + 1])
    return torch.stack(seen)


def test_attention_is_the_softmax_over_earlier_rotated_keys(
    spec_of: Callable[..., ModelSpec],
) -> None:
    torch.manual_seed(0)
    layer = Attention(spec_of())
    x_BSD = torch.randn(2, 11, 32) * 3
    actual_BSD = layer(x_BSD, rotation(11, 16, 10000.0, CPU))
    for x_SD, actual_SD in zip(x_BSD, actual_BSD, strict=True):
        heads_SD = torch.cat([one_head(layer, x_SD, head) for head in (0, 1)], dim=-1)
        torch.testing.assert_close(actual_SD, heads_SD @ layer.out.weight.T, rtol=1e-4, atol=1e-5)
