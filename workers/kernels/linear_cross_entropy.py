"""The output head and its cross entropy in one operation that never holds all T x V logits.

The logits determine the gradient of a mean cross entropy, so the forward pass computes both
products of the backward pass while a block of logits is still in cache.
Letters: N stacked trials, T tokens, D width, V vocabulary, C tokens of a block.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# 1 MiB of logits stays in the cache of one core; a GPU needs blocks that fill it.
BLOCK_VALUES = {"cpu": 2**18, "cuda": 2**28}
SMALLEST_BLOCK = 256  # tokens; smaller products do not reach the full speed of a core


def linear_cross_entropy(hidden_NTD: Tensor, head_NVD: Tensor, target_NT: Tensor) -> Tensor:
    """Mean over tokens of the cross entropy of hidden @ head^T, in nats and float32, shape (N,).

    Products are taken in the dtype of `hidden_NTD`, the softmax in float32.
    """
    return _LinearCrossEntropy.apply(hidden_NTD, head_NVD, target_NT)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NTD: Tensor, head_NVD: Tensor, target_NT: Tensor) -> Tensor:
        needs_grad = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        low_NVD = head_NVD.to(hidden_NTD.dtype)
        loss_N = hidden_NTD.new_zeros(len(hidden_NTD), dtype=torch.float32)
        grad_hidden_NTD = torch.empty_like(hidden_NTD) if needs_grad else None
        grad_head_NVD = torch.zeros_like(head_NVD) if needs_grad else None
        for part, token in _blocks(hidden_NTD, low_NVD.shape[1]):
            hidden_NCD, target_NC1 = hidden_NTD[part, token], target_NT[part, token].unsqueeze(-1)
            logp_NCV = torch.bmm(hidden_NCD, low_NVD[part].mT).float()
            torch.log_softmax(logp_NCV, dim=-1, out=logp_NCV)
            loss_N[part] -= logp_NCV.gather(-1, target_NC1).sum(dim=(-2, -1))
            if grad_hidden_NTD is None or grad_head_NVD is None:
                continue
            # d loss / d logits = (softmax - one at the target) / T
            slope_NCV = logp_NCV.exp_()
            slope_NCV.scatter_add_(
                -1, target_NC1, slope_NCV.new_full((), -1.0).expand_as(target_NC1)
            )
            slope_NCV = slope_NCV.to(hidden_NTD.dtype)
            torch.bmm(slope_NCV, low_NVD[part], out=grad_hidden_NTD[part, token])
            _add_product(grad_head_NVD[part], slope_NCV.mT, hidden_NCD)
        num_tokens = target_NT.shape[-1]
        if grad_hidden_NTD is not None and grad_head_NVD is not None:
            ctx.save_for_backward(grad_hidden_NTD.div_(num_tokens), grad_head_NVD.div_(num_tokens))
        return loss_N.div_(num_tokens)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_NTD, grad_head_NVD = ctx.saved_tensors
        scale_N11 = grads[0].view(-1, 1, 1)
        hidden = grad_hidden_NTD * scale_N11.to(grad_hidden_NTD.dtype)
        return hidden, grad_head_NVD * scale_N11.to(grad_head_NVD.dtype), None


def _blocks(hidden_NTD: Tensor, vocabulary: int) -> Iterator[tuple[slice, slice]]:
    """Slices over trials and tokens: one trial at a time on a CPU, all together on a GPU."""
    num_trials, num_tokens, _ = hidden_NTD.shape
    device = hidden_NTD.device.type
    together = 1 if device == "cpu" else num_trials
    room = BLOCK_VALUES[device] // (vocabulary * together)
    length = min(num_tokens, max(SMALLEST_BLOCK, room))
    for trial in range(0, num_trials, together):
        for token in range(0, num_tokens, length):
            yield slice(trial, trial + together), slice(token, token + length)


def _add_product(sum_NVD: Tensor, slope_NVC: Tensor, hidden_NCD: Tensor) -> None:
    """sum += slope @ hidden, in the dtype of the sum."""
    if sum_NVD.dtype is hidden_NCD.dtype:
        torch.baddbmm(sum_NVD, slope_NVC, hidden_NCD, out=sum_NVD)
    else:
        sum_NVD += torch.bmm(slope_NVC, hidden_NCD)
