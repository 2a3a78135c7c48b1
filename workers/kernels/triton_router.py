"""The router in Triton: keeps all scores of a token in registers and reads its logits once.

One pass computes gate scores, selection, gate weights and the counts of every block of tokens, from
which `triton_rows` makes the row order. If bins are given, it also counts the margins as in
`balancing.margins`. Among equal scores the expert with the lowest number wins; a NaN is chosen only
if there are too few numbers.
Letters: T tokens, E experts, K top-k, R rows (assignments), B bins of the margins.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from evenload.workers.kernels.routing import Gate, Route
from evenload.workers.kernels.rows import Rows
from evenload.workers.kernels.tiles import ALWAYS, on_device_of_first
from evenload.workers.kernels.triton_product import product_of_halves as product_of_halves
from evenload.workers.kernels.triton_rows import place_rows, tokens_per_block
from evenload.workers.selection import NO_BINS, Bins

TINY = tl.constexpr(1e-20)  # avoids 0 / 0, because all sigmoid scores may underflow


def route(logit_TE: Tensor, bias_E: Tensor, gate: Gate, bins: Bins = NO_BINS) -> Route:
    """Chooses the `top_k` largest of score + bias and weights them by the plain scores.

    Args:
        logit_TE: float32
        bias_E:   float32; no gradient passes through it
        bins:     as in `balancing.margins.margin_counts`
    """
    score_TE, expert_TK, weight_TK, assignment_R, row_TK, count_E, margin_E2B = (
        torch.ops.evenload.route(logit_TE.contiguous(), bias_E.contiguous(), *gate, *bins)
    )
    weight_R = weight_TK.flatten().gather(0, assignment_R)
    rows = Rows(assignment_R // gate.top_k, weight_R, count_E, row_TK)
    counted = margin_E2B if bins.num else None
    return Route(score_TE, expert_TK, weight_TK, count_E, rows, counted)


@triton.jit
def route_kernel(
    logit_TE,
    bias_E,
    score_TE,
    expert_TK,
    weight_TK,
    count_EB,
    margin_E2B,
    T,
    E,
    scale,
    smallest,
    per_octave,
    K,
    SOFTMAX: tl.constexpr,
    RENORMALISE: tl.constexpr,
    BINS: tl.constexpr,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
    CHOICES: tl.constexpr,
):
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert, choice = tl.arange(0, EXPERTS), tl.arange(0, CHOICES)
    real = (token < T)[:, None] & (expert < E)[None, :]
    at = token.to(tl.int64)[:, None] * E + expert[None, :]
    logit = tl.load(logit_TE + at, mask=real, other=0.0)
    score = _score(tl.where((expert < E)[None, :], logit, -float("inf")), SOFTMAX)
    tl.store(score_TE + at, score, mask=real)
    biased = score + tl.load(bias_E + expert, mask=expert < E, other=0.0)[None, :]
    biased = tl.where(biased == biased, biased, -float("inf"))

    free = (token >= 0)[:, None] & (expert < E)[None, :]
    expert_BK = tl.zeros((BLOCK, CHOICES), tl.int32)
    weight_BK = tl.zeros((BLOCK, CHOICES), tl.float32)
    last_in = tl.zeros((BLOCK,), tl.float32)
    # Not unrolled: 64 choices in a row compile for four minutes and spill.
    for k in range(K):
        last_in = tl.max(tl.where(free, biased, -float("inf")), axis=1)
        # The largest value, then the lowest number: tl.argmax costs several times more.
        best = free & (biased == last_in[:, None])
        winner = tl.min(tl.where(best, expert[None, :], EXPERTS), axis=1)
        hit = expert[None, :] == winner[:, None]
        free = free & (hit == 0)
        weight = tl.sum(tl.where(hit, score, 0.0), axis=1)
        expert_BK = tl.where((choice == k)[None, :], winner[:, None], expert_BK)
        weight_BK = tl.where((choice == k)[None, :], weight[:, None], weight_BK)
    if RENORMALISE:
        weight_BK = weight_BK / (tl.sum(weight_BK, axis=1) + TINY)[:, None]
    stored = (token < T)[:, None] & (choice < K)[None, :]
    at_BK = token[:, None] * K + choice[None, :]
    tl.store(expert_TK + at_BK, expert_BK.to(tl.int64), mask=stored)
    tl.store(weight_TK + at_BK, weight_BK * scale, mask=stored)
    chosen = real & (free == 0)
    count = tl.sum(chosen.to(tl.int32), axis=0)
    tl.store(count_EB + expert * tl.num_programs(0) + tl.program_id(0), count, mask=expert < E)
    if BINS > 0:
        first_out = tl.max(tl.where(free, biased, -float("inf")), axis=1)
        inside = biased >= last_in[:, None]
        margin = biased - tl.where(inside, first_out[:, None], last_in[:, None])
        # All margins below `smallest` share a bin, so ties need no logarithm. If every expert is
        # chosen the margin is infinite, so clamp before the cast.
        octave = tl.log2(tl.maximum(tl.abs(margin) / smallest, 0.5)) * per_octave
        bin = tl.minimum(tl.maximum(tl.floor(octave) + 1, 0.0), BINS - 1.0).to(tl.int32)
        # Sums of a block first: nearly all margins of an expert fall into few cells.
        cell = tl.where(real, 2 * bin + (margin <= 0).to(tl.int32), 2 * BINS)
        first = tl.min(tl.min(cell, axis=1), axis=0)
        last = tl.max(tl.max(tl.where(real, cell, 0), axis=1), axis=0)
        for each in range(first, last + 1):
            count = tl.sum((cell == each).to(tl.int32), axis=0)
            at_E = (2 * expert + each % 2) * BINS + each // 2
            # A sum of integers does not depend on the order.
            tl.atomic_add(margin_E2B + at_E, count, mask=count > 0, sem="relaxed")


@triton.jit
def route_backward_kernel(
    score_TE,
    expert_TK,
    grad_score_TE,
    grad_weight_TK,
    grad_logit_TE,
    T,
    E,
    scale,
    K,
    SOFTMAX: tl.constexpr,
    RENORMALISE: tl.constexpr,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """With w_k = c s_k / S and S the sum over k: ds_k = c (dw_k - sum_j dw_j s_j / S) / S."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    expert = tl.arange(0, EXPERTS)
    real = (token < T)[:, None] & (expert < E)[None, :]
    at = token.to(tl.int64)[:, None] * E + expert[None, :]
    score = tl.load(score_TE + at, mask=real, other=0.0)
    grad_chosen = tl.zeros((BLOCK, EXPERTS), tl.float32)
    chosen = tl.zeros((BLOCK, EXPERTS), tl.float32)
    if grad_weight_TK is not None:
        for k in range(K):
            assignment = token * K + k
            winner = tl.load(expert_TK + assignment, mask=token < T, other=-1)
            hit = expert[None, :] == winner[:, None]
            grad = tl.load(grad_weight_TK + assignment, mask=token < T, other=0.0)
            grad_chosen = tl.where(hit, grad[:, None] * scale, grad_chosen)
            chosen = tl.where(hit, score, chosen)
    grad = grad_chosen
    if RENORMALISE:
        total = tl.sum(chosen, axis=1) + TINY
        shared = tl.sum(grad_chosen * chosen, axis=1) / total
        grad = tl.where(chosen > 0, (grad_chosen - shared[:, None]) / total[:, None], 0.0)
    if grad_score_TE is not None:
        grad += tl.load(grad_score_TE + at, mask=real, other=0.0)
    if SOFTMAX:
        grad = score * (grad - tl.sum(grad * score, axis=1)[:, None])
    else:
        grad = grad * score * (1 - score)
    tl.store(grad_logit_TE + at, grad, mask=real)


@triton.jit
def _score(logit, SOFTMAX: tl.constexpr):
    if SOFTMAX:
        shifted = tl.exp(logit - tl.max(logit, axis=1)[:, None])
        return shifted / tl.sum(shifted, axis=1)[:, None]
    else:
        return tl.sigmoid(logit)


@torch.library.custom_op("evenload::route", mutates_args=())
@on_device_of_first
def _route(
    logit_TE: Tensor,
    bias_E: Tensor,
    top_k: int,
    softmax: bool,
    renormalise: bool,
    route_scale: float,
    num_bins: int,
    smallest: float,
    per_octave: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens, experts = logit_TE.shape
    block = tokens_per_block(experts)
    blocks = triton.cdiv(tokens, block)
    score_TE = torch.empty_like(logit_TE)
    expert_TK = logit_TE.new_empty(tokens, top_k, dtype=torch.int64)
    weight_TK = logit_TE.new_empty(tokens, top_k)
    count_EB = logit_TE.new_empty(experts, blocks, dtype=torch.int32)
    margin_E2B = logit_TE.new_zeros(experts, 2, num_bins, dtype=torch.int64)
    route_kernel[(blocks,)](
        logit_TE,
        bias_E,
        score_TE,
        expert_TK,
        weight_TK,
        count_EB,
        margin_E2B,
        tokens,
        experts,
        route_scale,
        smallest,
        per_octave,
        top_k,
        SOFTMAX=softmax,
        RENORMALISE=renormalise,
        BINS=num_bins,
        BLOCK=block,
        EXPERTS=triton.next_power_of_2(experts),
        CHOICES=triton.next_power_of_2(top_k),
        **ALWAYS,
    )
    return score_TE, expert_TK, weight_TK, *place_rows(expert_TK, count_EB), margin_E2B


@_route.register_fake
def _(logit_TE: Tensor, bias_E: Tensor, top_k: int, *others: Any) -> tuple[Tensor, ...]:
    *_, num_bins, _smallest, _per_octave = others
    tokens, experts = logit_TE.shape
    expert_TK = logit_TE.new_empty(tokens, top_k, dtype=torch.int64)
    return (
        torch.empty_like(logit_TE),
        expert_TK,
        logit_TE.new_empty(tokens, top_k),
        expert_TK.new_empty(tokens * top_k),
        torch.empty_like(expert_TK),
        expert_TK.new_empty(experts),
        expert_TK.new_empty(experts, 2, num_bins),
    )


@torch.library.custom_op("evenload::route_backward", mutates_args=())
@on_device_of_first
def _route_backward(
    score_TE: Tensor,
    expert_TK: Tensor,
    grad_score_TE: Tensor | None,
    grad_weight_TK: Tensor | None,
    softmax: bool,
    renormalise: bool,
    route_scale: float,
) -> Tensor:
    tokens, experts = score_TE.shape
    grad_logit_TE = torch.empty_like(score_TE)
    block = tokens_per_block(experts)
    route_backward_kernel[(triton.cdiv(tokens, block),)](
        score_TE,
        expert_TK,
        grad_score_TE,
        grad_weight_TK,
        grad_logit_TE,
        tokens,
        experts,
        route_scale,
        expert_TK.shape[1],
        SOFTMAX=softmax,
        RENORMALISE=renormalise,
        BLOCK=block,
        EXPERTS=triton.next_power_of_2(experts),
        **ALWAYS,
    )
    return grad_logit_TE


@_route_backward.register_fake
def _(score_TE: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(score_TE)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[0], output[1])
    ctx.gate = inputs[3:6]


def _backward(
    ctx: Any, grad_score_TE: Tensor | None, _: None, grad_weight_TK: Tensor | None, *__: None
) -> tuple[Tensor | None, ...]:
    if grad_score_TE is None and grad_weight_TK is None:
        return (None,) * 9
    grad_logit_TE = torch.ops.evenload.route_backward(
        *ctx.saved_tensors,
        None if grad_score_TE is None else grad_score_TE.contiguous(),
        None if grad_weight_TK is None else grad_weight_TK.contiguous(),
        *ctx.gate,
    )
    return (grad_logit_TE, *(None,) * 8)


_route.register_autograd(_backward, setup_context=_keep_for_backward)
