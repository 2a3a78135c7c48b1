"""The experts in Triton: three products forward and five backward, with fused gathers and SwiGLU.

Forward:  up (gather, SwiGLU, gate weight) -> down -> sum over each token's rows.
Backward: gradient of gate and up (gather, SwiGLU', gate weight) -> of both matrices -> of the rows
          -> sum over each token's rows.
Kept for backward: x (T D) and gate_up (2 R F) in their dtype, and the row order. With `recompute`
only x is kept, at the price of one more up product. Activations, outputs of rows and gathered
inputs are never kept. The plan is that of Guo et al. 2025, arXiv:2512.14080 (SonicMoE), section 3;
the kernels are ours.

Both passes are `torch.library` operators, so torch.compile needs no graph break. They never wait
for the device, so a CUDA graph can capture them.
Letters: T tokens, E experts, K top-k, R rows, D width, F expert width, G = 2F gate and up.
"""

from functools import cache, partial
from typing import Any

import torch
import triton
from torch import Tensor
from triton.errors import TritonError as TritonError
from triton.tools.tensor_descriptor import TensorDescriptor

from evenload.workers.kernels.rows import Rows
from evenload.workers.kernels.tiles import ALWAYS, Tile, on_device_of_first, table_names, tiles_for
from evenload.workers.kernels.torch_experts import compute_dtype
from evenload.workers.kernels.triton_combine import combine, rows_by_token
from evenload.workers.kernels.triton_matmul import (
    grad_matrix_kernel,
    grad_up_kernel,
    rows_kernel,
    sum_parts_kernel,
    up_kernel,
)
from evenload.workers.kernels.triton_rows import list_tiles
from evenload.workers.kernels.triton_support import check_widths

TMA_ALIGNMENT_BYTES = 16
TILES_PER_PROCESSOR = 4  # if one expert had all rows; with fewer, too many wait for the last tile
PARTS_BLOCK = 1024  # elements of a gradient that a program sums at once


def run_experts(
    x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor, rows: Rows, recompute: bool = False
) -> Tensor:
    """The function that `reference.run_experts` defines, in autocast's dtype if autocast is on.

    As in the torch back end, the gate weight multiplies the F-wide activation in float32.

    Args:
        recompute: compute gate_up again in backward instead of keeping it
    """
    dtype = compute_dtype(x_TD)
    if dtype is torch.bfloat16:  # float16 has two bytes too, but the interpreter computes it
        check_widths(down_EDF.shape[1], down_EDF.shape[2], dtype.itemsize)
    if rows.row_TK is not None:
        row_R, start_T = rows.row_TK.flatten(), None
    else:
        row_R, start_T = rows_by_token(rows.token_R, x_TD.shape[0])
    y_TD, _ = torch.ops.evenload.experts(
        x_TD.to(dtype).contiguous(),
        gate_up_EGD.to(dtype).contiguous(),
        down_EDF.to(dtype).contiguous(),
        rows.token_R,
        rows.weight_R.contiguous(),
        rows.count_E,
        row_R,
        start_T,
        torch.is_grad_enabled() and not recompute,
    )
    return y_TD.to(x_TD.dtype)


# Saves 4 R F bytes in bf16 and repeats the up product, two ninths of the layer's FLOPs.
run_experts_recomputing = partial(run_experts, recompute=True)


@torch.library.custom_op("evenload::experts", mutates_args=())
@on_device_of_first
def experts(
    x_TD: Tensor,
    gate_up_EGD: Tensor,
    down_EDF: Tensor,
    token_R: Tensor,
    weight_R: Tensor,
    count_E: Tensor,
    row_R: Tensor,
    start_T: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Returns: y_TD, and gate_up_RG, which has no rows unless `keep` is set."""
    layer = Products(x_TD, count_E, token_R, weight_R)
    hidden = down_EDF.shape[2]
    act_RF = x_TD.new_empty(layer.R, hidden)
    gate_up_RG = x_TD.new_empty(layer.R if keep else 0, 2 * hidden)
    layer.up(x_TD, gate_up_EGD, gate_up_RG if keep else None, act_RF)
    y_RD = layer.rows(act_RF, down_EDF, transposed=True)
    return combine(y_RD, row_R, start_T, layer.T), gate_up_RG


@experts.register_fake
def _(
    x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor, token_R: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    *_, keep = others
    num_rows = token_R.shape[0] if keep else 0
    return torch.empty_like(x_TD), x_TD.new_empty(num_rows, gate_up_EGD.shape[1])


@torch.library.custom_op("evenload::experts_backward", mutates_args=())
@on_device_of_first
def experts_backward(
    grad_TD: Tensor,
    x_TD: Tensor,
    gate_up_EGD: Tensor,
    down_EDF: Tensor,
    token_R: Tensor,
    weight_R: Tensor,
    count_E: Tensor,
    row_R: Tensor,
    start_T: Tensor | None,
    gate_up_RG: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x_TD, gate_up_EGD, down_EDF and weight_R; recomputes an empty gate_up_RG."""
    layer = Products(x_TD, count_E, token_R, weight_R)
    if gate_up_RG.shape[0] != layer.R:
        gate_up_RG = x_TD.new_empty(layer.R, gate_up_EGD.shape[1])
        layer.up(x_TD, gate_up_EGD, gate_up_RG, None)
    grad_RG, act_RF, grad_weight_R = layer.grad_up(grad_TD, down_EDF, gate_up_RG)
    del gate_up_RG
    grad_down_EDF = layer.grad_matrix(grad_TD, act_RF, gather="left")
    del act_RF
    grad_gate_up_EGD = layer.grad_matrix(grad_RG, x_TD, gather="right")
    grad_RD = layer.rows(grad_RG, gate_up_EGD, transposed=False)
    grad_x_TD = combine(grad_RD, row_R, start_T, layer.T)
    return grad_x_TD, grad_gate_up_EGD, grad_down_EDF, grad_weight_R


@experts_backward.register_fake
def _(grad_TD: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
    x_TD, gate_up_EGD, down_EDF, _, weight_R, *_ = inputs
    return tuple(map(torch.empty_like, (x_TD, gate_up_EGD, down_EDF, weight_R)))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # the gradient of gate_up_RG would be as large as gate_up_RG
    ctx.save_for_backward(*inputs[:-1], output[1])


def _backward(ctx: Any, grad_TD: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad_TD is None:
        return (None,) * 9
    grad_x, grad_gate_up, grad_down, grad_weight = torch.ops.evenload.experts_backward(
        grad_TD.contiguous(), *ctx.saved_tensors
    )
    return grad_x, grad_gate_up, grad_down, None, grad_weight, None, None, None, None


experts.register_autograd(_backward, setup_context=_keep_for_backward)


class Products:
    """The sizes, row order and tiles of one call. Each method computes one product.

    Args:
        token_R, weight_R: None: every token is one row; only products without a gather work then
        precision: of `tl.dot`, for products of float32
    """

    def __init__(
        self,
        x_TD: Tensor,
        count_E: Tensor,
        token_R: Tensor | None,
        weight_R: Tensor | None,
        precision: str = "ieee",
    ) -> None:
        assert x_TD.is_contiguous(), "kernels do not read strides"
        self.T, self.D = x_TD.shape
        self.E, self.R = len(count_E), len(x_TD if token_R is None else token_R)
        self.token_R, self.weight_R, self.count_E = token_R, weight_R, count_E
        names = table_names(x_TD.device, x_TD.dtype, precision)
        self.tiles, self._precision = tiles_for(names, self.R, self.E), precision
        self._lists: dict[int, Tensor] = {}

    def up(
        self, x_TD: Tensor, gate_up_EGD: Tensor, gate_up_RG: Tensor | None, act_RF: Tensor | None
    ) -> None:
        tile, hidden = self.tiles.up, gate_up_EGD.shape[1] // 2
        tile_3M = self._list(tile)
        matrix, tma = _matrix(gate_up_EGD, tile.block_n, tile.block_k)
        up_kernel[_grid(tile_3M, hidden, tile)](
            x_TD,
            matrix,
            self.token_R,
            self.weight_R,
            tile_3M,
            gate_up_RG,
            act_RF,
            tile_3M.shape[1],
            self.D,
            hidden,
            KEEP=gate_up_RG is not None,
            ACTIVATE=act_RF is not None,
            TMA=tma,
            EVEN_K=self.D % tile.block_k == 0,
            **tile.launch(),
        )

    def rows(self, left_RK: Tensor, matrix_E: Tensor, transposed: bool) -> Tensor:
        """left @ matrix_e.T if transposed (down), or left @ matrix_e (the gradient of the rows)."""
        tile = self.tiles.down if transposed else self.tiles.grad_rows
        tile_3M = self._list(tile)
        block = (tile.block_n, tile.block_k) if transposed else (tile.block_k, tile.block_n)
        matrix, tma = _matrix(matrix_E, *block)
        width = matrix_E.shape[1 if transposed else 2]
        out_RN = left_RK.new_empty(self.R, width)
        rows_kernel[_grid(tile_3M, width, tile)](
            left_RK,
            matrix,
            tile_3M,
            out_RN,
            tile_3M.shape[1],
            width,
            left_RK.shape[1],
            TRANSPOSED=transposed,
            PRECISION=self._precision,
            TMA=tma,
            EVEN_K=left_RK.shape[1] % tile.block_k == 0,
            **tile.launch(),
        )
        return out_RN

    def grad_up(
        self, grad_TD: Tensor, down_EDF: Tensor, gate_up_RG: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns: gradients of gate and up, weighted activation, gradient of the gate weights."""
        tile, hidden = self.tiles.grad_up, down_EDF.shape[2]
        tile_3M = self._list(tile)
        matrix, tma = _matrix(down_EDF, tile.block_k, tile.block_n)
        grad_RG, act_RF = torch.empty_like(gate_up_RG), gate_up_RG.new_empty(self.R, hidden)
        part_NR = grad_TD.new_empty(triton.cdiv(hidden, tile.block_n), self.R, dtype=torch.float32)
        grad_up_kernel[_grid(tile_3M, hidden, tile)](
            grad_TD,
            matrix,
            self.token_R,
            self.weight_R,
            gate_up_RG,
            tile_3M,
            grad_RG,
            act_RF,
            part_NR,
            tile_3M.shape[1],
            self.R,
            self.D,
            hidden,
            TMA=tma,
            EVEN_K=self.D % tile.block_k == 0,
            **tile.launch(),
        )
        return grad_RG, act_RF, part_NR.sum(dim=0)

    def grad_matrix(self, left: Tensor, right: Tensor, gather: str | None = None) -> Tensor:
        """left_e.T @ right_e for every expert. The side to gather has one row per token.

        Rows of the largest experts are split if the tiles of one expert do not keep the GPU busy.
        """
        tile = self.tiles.grad_matrix
        M, N = left.shape[1], right.shape[1]
        grad_EMN = left.new_empty(self.E, M, N)
        tiles = triton.cdiv(M, tile.block_m) * triton.cdiv(N, tile.block_n)
        splits = triton.cdiv(TILES_PER_PROCESSOR * _processors(left.device), tiles)
        chunk_rows = max(1, triton.cdiv(self.R, splits))
        # Experts with more than a chunk have less than 2 chunks each on average.
        part_SMN = left.new_empty(2 * splits - 1, M, N, dtype=torch.float32) if splits > 1 else None
        experts = triton.next_power_of_2(self.E)
        grad_matrix_kernel[(tiles * (self.E + splits),)](
            left,
            right,
            self.token_R,
            self.count_E,
            grad_EMN,
            part_SMN,
            self.E,
            M,
            N,
            chunk_rows,
            GATHER_LEFT=gather == "left",
            GATHER_RIGHT=gather == "right",
            SPLIT=splits > 1,
            PRECISION=self._precision,
            EXPERTS=experts,
            **tile.launch(),
        )
        if part_SMN is not None:
            sum_parts_kernel[(self.E, triton.cdiv(M * N, PARTS_BLOCK))](
                part_SMN,
                self.count_E,
                grad_EMN,
                self.E,
                M * N,
                chunk_rows,
                BLOCK=PARTS_BLOCK,
                EXPERTS=experts,
                **ALWAYS,
            )
        return grad_EMN

    def _list(self, tile: Tile) -> Tensor:
        if tile.block_m not in self._lists:
            self._lists[tile.block_m] = list_tiles(self.count_E, self.R, tile.block_m)
        return self._lists[tile.block_m]


@cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1  # the interpreter
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _grid(tile_3M: Tensor, columns: int, tile: Tile) -> tuple[int]:
    return (tile_3M.shape[1] * triton.cdiv(columns, tile.block_n),)


def _matrix(matrix_EMN: Tensor, *block: int) -> tuple[Any, bool]:
    """A tensor descriptor if the copy engine can read the matrices, otherwise the tensor."""
    if not _copy_engine(matrix_EMN):
        return matrix_EMN, False
    return TensorDescriptor.from_tensor(matrix_EMN, [1, *block]), True


def _copy_engine(matrix_EMN: Tensor) -> bool:
    """True on Hopper and later if rows start at multiples of 16 bytes."""
    step = TMA_ALIGNMENT_BYTES // matrix_EMN.itemsize
    aligned = matrix_EMN.shape[-1] % step == 0 and matrix_EMN.data_ptr() % TMA_ALIGNMENT_BYTES == 0
    if matrix_EMN.is_cuda:
        return aligned and torch.cuda.get_device_capability(matrix_EMN.device)[0] >= 9
    return aligned
