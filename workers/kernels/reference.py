"""The definition of a correct result: one expert after another, in plain torch, with autograd.

Letters: T tokens, E experts, D width, F expert width, G = 2F gate and up, R rows.
"""

import torch
from torch import Tensor
from torch.nn import functional

from evenload.workers.kernels.rows import Rows


def run_experts(x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor, rows: Rows) -> Tensor:
    """y_t = sum over the rows of token t of weight * down_e(silu(gate_e(x_t)) * up_e(x_t)).

    Args:
        gate_up_EGD: of the 2F rows of an expert, the first F are its gate and the others its up
    Returns:  (T, D) in the dtype of x_TD
    Source:   Shazeer 2020, arXiv:2002.05202, eq. (6) (SwiGLU); Dai et al. 2024, arXiv:2401.06066,
              eq. (9) without its shared experts.
    """
    y_TD = torch.zeros_like(x_TD, dtype=torch.float32)
    start = 0
    for expert, count in enumerate(rows.count_E.tolist()):
        row = slice(start, start + count)
        start += count
        token_C, weight_C = rows.token_R[row], rows.weight_R[row]
        gate_up_CG = functional.linear(x_TD[token_C], gate_up_EGD[expert])
        gate_CF, up_CF = gate_up_CG.float().chunk(2, dim=-1)
        out_CD = functional.linear(
            (functional.silu(gate_CF) * up_CF).to(gate_up_CG.dtype), down_EDF[expert]
        )
        y_TD = y_TD.index_add(0, token_C, weight_C[:, None] * out_CD.float())
    return y_TD.to(x_TD.dtype)
