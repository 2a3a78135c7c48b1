"""Matrix products of an expert layer: one launch for all experts, with fused gathers and SwiGLU.

A program computes one tile of the result. Rows past the end of an expert read a valid row and are
not stored. Sums are float32. One program writes each element of a result, in a fixed order.
Letters: T tokens, E experts, R rows, D width, F expert width, G = 2F gate and up, M tiles of rows.
Kernel letters: rows BLOCK_M, columns BLOCK_N, summed BLOCK_K.
"""

import triton
import triton.language as tl


@triton.jit
def up_kernel(
    x_TD,
    gate_up_EGD,
    token_R,
    weight_R,
    tile_3M,
    gate_up_RG,
    act_RF,
    M,
    D,
    F,
    KEEP: tl.constexpr,
    ACTIVATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """gate_up = x[token] @ gate_up_e.T, stored if KEEP; act = weight * silu(gate) * up, stored if
    ACTIVATE."""
    m, n = _tile_of_program(M, tl.cdiv(F, BLOCK_N), GROUP)
    expert = tl.load(tile_3M + m)
    if expert < 0:
        return
    first, end = tl.load(tile_3M + M + m), tl.load(tile_3M + 2 * M + m)
    row = _rows_of_tile(first, end, BLOCK_M)
    x_M = x_TD + tl.load(token_R + row).to(tl.int64) * D
    n0 = n * BLOCK_N
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, D, BLOCK_K):
        x_MK = _load_columns(x_M, k0, D, BLOCK_K, EVEN_K)
        gate_NK = _load_matrix(gate_up_EGD, expert, n0, k0, 2 * F, D, BLOCK_N, BLOCK_K, TMA)
        up_NK = _load_matrix(gate_up_EGD, expert, F + n0, k0, 2 * F, D, BLOCK_N, BLOCK_K, TMA)
        gate = tl.dot(x_MK, gate_NK.T, gate, input_precision="ieee")
        up = tl.dot(x_MK, up_NK.T, up, input_precision="ieee")
    weight = tl.load(weight_R + row)
    # One half at a time, because all columns need more registers than a thread has.
    gates, ups = _halves(gate, BLOCK_M, BLOCK_N), _halves(up, BLOCK_M, BLOCK_N)
    for half in tl.static_range(2):
        _store_swiglu(
            gates[half],
            ups[half],
            weight,
            gate_up_RG,
            act_RF,
            first,
            end,
            n0 + half * (BLOCK_N // 2),
            F,
            KEEP,
            ACTIVATE,
            BLOCK_M,
            BLOCK_N // 2,
        )


@triton.jit
def _store_swiglu(
    gate,
    up,
    weight,
    gate_up_RG,
    act_RF,
    first,
    end,
    column0,
    F,
    KEEP: tl.constexpr,
    ACTIVATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    row, f = tl.arange(0, BLOCK_M), column0 + tl.arange(0, BLOCK_N)
    stored = (first + row < end)[:, None] & (f < F)[None, :]
    first = first.to(tl.int64)
    if KEEP:
        gate_MN = gate_up_RG + first * (2 * F) + row[:, None] * (2 * F) + f[None, :]
        tl.store(gate_MN, gate.to(gate_up_RG.dtype.element_ty), mask=stored)
        tl.store(gate_MN + F, up.to(gate_up_RG.dtype.element_ty), mask=stored)
    if ACTIVATE:
        act = (gate * tl.sigmoid(gate) * up * weight[:, None]).to(act_RF.dtype.element_ty)
        tl.store(act_RF + first * F + row[:, None] * F + f[None, :], act, mask=stored)


@triton.jit
def rows_kernel(
    left_RK,
    matrix_E,
    tile_3M,
    out_RN,
    M,
    N,
    K,
    TRANSPOSED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """out = left @ matrix_e; if TRANSPOSED, left @ matrix_e.T with matrices of shape (N, K)."""
    m, n = _tile_of_program(M, tl.cdiv(N, BLOCK_N), GROUP)
    expert = tl.load(tile_3M + m)
    if expert < 0:
        return
    first, end = tl.load(tile_3M + M + m), tl.load(tile_3M + 2 * M + m)
    left_M = left_RK + _rows_of_tile(first, end, BLOCK_M).to(tl.int64) * K
    n0 = n * BLOCK_N
    out = _product(
        left_M, matrix_E, expert, n0, N, K, TRANSPOSED, BLOCK_M, BLOCK_N, BLOCK_K, TMA, EVEN_K
    )
    row, column = tl.arange(0, BLOCK_M), n0 + tl.arange(0, BLOCK_N)
    stored = (first + row < end)[:, None] & (column < N)[None, :]
    out_MN = out_RN + first.to(tl.int64) * N + row[:, None] * N + column[None, :]
    tl.store(out_MN, out.to(out_RN.dtype.element_ty), mask=stored)


@triton.jit
def grad_up_kernel(
    grad_TD,
    down_EDF,
    token_R,
    weight_R,
    gate_up_RG,
    tile_3M,
    grad_RG,
    act_RF,
    grad_weight_NR,
    M,
    R,
    D,
    F,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """Computes the gradients of gate and up, the weighted activation again, and the part of the
    gate weights' gradient from these columns.

    With s = silu(g) u and a = w s: dw = <da, s>, du = w da silu(g), dg = w da u silu'(g).
    """
    m, n = _tile_of_program(M, tl.cdiv(F, BLOCK_N), GROUP)
    expert = tl.load(tile_3M + m)
    if expert < 0:
        return
    first, end = tl.load(tile_3M + M + m), tl.load(tile_3M + 2 * M + m)
    row = _rows_of_tile(first, end, BLOCK_M)
    grad_M = grad_TD + tl.load(token_R + row).to(tl.int64) * D
    n0 = n * BLOCK_N
    grad = _product(
        grad_M, down_EDF, expert, n0, F, D, False, BLOCK_M, BLOCK_N, BLOCK_K, TMA, EVEN_K
    )
    weight = tl.load(weight_R + row)
    # One half at a time, because all columns need more registers than a thread has.
    grads = _halves(grad, BLOCK_M, BLOCK_N)
    part = tl.zeros((BLOCK_M,), tl.float32)
    for half in tl.static_range(2):
        part += _store_grad_swiglu(
            grads[half],
            weight,
            gate_up_RG,
            grad_RG,
            act_RF,
            first,
            end,
            n0 + half * (BLOCK_N // 2),
            F,
            BLOCK_M,
            BLOCK_N // 2,
        )
    row = first + tl.arange(0, BLOCK_M)
    tl.store(grad_weight_NR + n.to(tl.int64) * R + row, part, mask=row < end)


@triton.jit
def _halves(tile, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """The left and the right half of the columns of a tile."""
    return tile.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()


@triton.jit
def _store_grad_swiglu(
    grad,
    weight,
    gate_up_RG,
    grad_RG,
    act_RF,
    first,
    end,
    column0,
    F,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Stores grad_RG and act_RF for a tile of da and returns its part of dw, (BLOCK_M,)."""
    row, f = tl.arange(0, BLOCK_M), column0 + tl.arange(0, BLOCK_N)
    stored = (first + row < end)[:, None] & (f < F)[None, :]
    gate_MN = first.to(tl.int64) * (2 * F) + row[:, None] * (2 * F) + f[None, :]
    gate = tl.load(gate_up_RG + gate_MN, mask=stored, other=0.0).to(tl.float32)
    up = tl.load(gate_up_RG + gate_MN + F, mask=stored, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    swiglu = silu * up
    part = tl.sum(tl.where(stored, grad * swiglu, 0.0), axis=1)
    act = (swiglu * weight[:, None]).to(act_RF.dtype.element_ty)
    tl.store(act_RF + first.to(tl.int64) * F + row[:, None] * F + f[None, :], act, mask=stored)
    grad *= weight[:, None]
    grad_gate = grad * up * (sigmoid + silu * (1 - sigmoid))
    tl.store(grad_RG + gate_MN, grad_gate.to(grad_RG.dtype.element_ty), mask=stored)
    grad_up = grad * silu
    tl.store(grad_RG + gate_MN + F, grad_up.to(grad_RG.dtype.element_ty), mask=stored)
    return part


@triton.jit
def grad_matrix_kernel(
    left,
    right,
    token_R,
    count_E,
    grad_EMN,
    E,
    M,
    N,
    GATHER_LEFT: tl.constexpr,
    GATHER_RIGHT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """grad_e = left.T @ right over the rows of an expert; zero if it has no rows.

    The side to gather has one line per token, the other one line per row. BLOCK_K counts rows.
    """
    expert = tl.program_id(1)
    m, n = _tile_of_program(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP)
    i, j = m * BLOCK_M + tl.arange(0, BLOCK_M), n * BLOCK_N + tl.arange(0, BLOCK_N)
    every = tl.arange(0, EXPERTS)
    count = tl.load(count_E + every, mask=every < E, other=0).to(tl.int32)
    first = tl.sum(tl.where(every < expert, count, 0), axis=0)
    end = first + tl.sum(tl.where(every == expert, count, 0), axis=0)
    grad = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, end, BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        inside = row < end
        left_row, right_row = row.to(tl.int64), row.to(tl.int64)
        if GATHER_LEFT:
            left_row = tl.load(token_R + row, mask=inside, other=0).to(tl.int64)
        if GATHER_RIGHT:
            right_row = tl.load(token_R + row, mask=inside, other=0).to(tl.int64)
        left_KM = tl.load(
            left + left_row[:, None] * M + i[None, :],
            mask=inside[:, None] & (i < M)[None, :],
            other=0.0,
        )
        right_KN = tl.load(
            right + right_row[:, None] * N + j[None, :],
            mask=inside[:, None] & (j < N)[None, :],
            other=0.0,
        )
        grad = tl.dot(left_KM.T, right_KN, grad, input_precision="ieee")
    out_MN = grad_EMN + (expert.to(tl.int64) * M + i)[:, None] * N + j[None, :]
    tl.store(out_MN, grad.to(grad_EMN.dtype.element_ty), mask=(i < M)[:, None] & (j < N)[None, :])


@triton.jit
def _product(
    left_M,
    matrix_E,
    expert,
    n0,
    N,
    K,
    TRANSPOSED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """The rows at left_M times the columns n0 to n0 + BLOCK_N of an expert's matrix."""
    out = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(0, K, BLOCK_K):
        left_MK = _load_columns(left_M, k0, K, BLOCK_K, EVEN_K)
        if TRANSPOSED:
            matrix_KN = _load_matrix(matrix_E, expert, n0, k0, N, K, BLOCK_N, BLOCK_K, TMA).T
        else:
            matrix_KN = _load_matrix(matrix_E, expert, k0, n0, K, N, BLOCK_K, BLOCK_N, TMA)
        out = tl.dot(left_MK, matrix_KN, out, input_precision="ieee")
    return out


@triton.jit
def _load_columns(left_M, k0, K, BLOCK_K: tl.constexpr, EVEN_K: tl.constexpr):
    k = k0 + tl.arange(0, BLOCK_K)
    if EVEN_K:
        return tl.load(left_M[:, None] + k[None, :])
    else:
        return tl.load(left_M[:, None] + k[None, :], mask=(k < K)[None, :], other=0.0)


@triton.jit
def _load_matrix(
    matrix_E,
    expert,
    row0,
    column0,
    ROWS,
    COLUMNS,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    TMA: tl.constexpr,
):
    """A block of one expert's (ROWS, COLUMNS) matrix; zero outside of the matrix.

    matrix_E is a tensor descriptor if TMA, otherwise a pointer.
    """
    if TMA:
        return matrix_E.load([expert, row0, column0]).reshape(BLOCK_R, BLOCK_C)
    else:
        row, column = row0 + tl.arange(0, BLOCK_R), column0 + tl.arange(0, BLOCK_C)
        at = (expert.to(tl.int64) * ROWS + row)[:, None] * COLUMNS + column[None, :]
        inside = (row < ROWS)[:, None] & (column < COLUMNS)[None, :]
        return tl.load(matrix_E + at, mask=inside, other=0.0)


@triton.jit
def _rows_of_tile(first, end, BLOCK_M: tl.constexpr):
    """The rows of a tile, with those past the end replaced by the first: safe only to read."""
    row = first + tl.arange(0, BLOCK_M)
    return tl.where(row < end, row, first)


@triton.jit
def _tile_of_program(num_m, num_n, GROUP: tl.constexpr):
    """Orders programs in groups of GROUP rows of tiles, so that neighbours share matrices in L2."""
    program = tl.program_id(0)
    group = program // (GROUP * num_n)
    height = min(num_m - group * GROUP, GROUP)
    within = program % (GROUP * num_n)
    return group * GROUP + within % height, within // height
