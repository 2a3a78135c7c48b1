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
    m, n = _tile(tl.program_id(0), M, tl.cdiv(F, BLOCK_N), GROUP)
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
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    TMA: tl.constexpr,
    EVEN_K: tl.constexpr,
):
    """out = left @ matrix_e; if TRANSPOSED, left @ matrix_e.T with matrices of shape (N, K)."""
    m, n = _tile(tl.program_id(0), M, tl.cdiv(N, BLOCK_N), GROUP)
    expert = tl.load(tile_3M + m)
    if expert < 0:
        return
    first, end = tl.load(tile_3M + M + m), tl.load(tile_3M + 2 * M + m)
    left_M = left_RK + _rows_of_tile(first, end, BLOCK_M).to(tl.int64) * K
    n0 = n * BLOCK_N
    out = _product(
        left_M,
        matrix_E,
        expert,
        n0,
        N,
        K,
        TRANSPOSED,
        PRECISION,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        TMA,
        EVEN_K,
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
    m, n = _tile(tl.program_id(0), M, tl.cdiv(F, BLOCK_N), GROUP)
    expert = tl.load(tile_3M + m)
    if expert < 0:
        return
    first, end = tl.load(tile_3M + M + m), tl.load(tile_3M + 2 * M + m)
    row = _rows_of_tile(first, end, BLOCK_M)
    grad_M = grad_TD + tl.load(token_R + row).to(tl.int64) * D
    n0 = n * BLOCK_N
    grad = _product(
        grad_M, down_EDF, expert, n0, F, D, False, "ieee", BLOCK_M, BLOCK_N, BLOCK_K, TMA, EVEN_K
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
    part_SMN,
    E,
    M,
    N,
    chunk_rows,
    GATHER_LEFT: tl.constexpr,
    GATHER_RIGHT: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """grad_e = left.T @ right over the rows of an expert; zero if it has no rows.

    A program computes a block of the result over one chunk of an expert's rows. If SPLIT, an expert
    with several chunks gets a part for each, which `sum_parts_kernel` sums.
    The side to gather has one line per token, the other one line per row. BLOCK_K counts rows.
    """
    num_m, num_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    every = tl.arange(0, EXPERTS)
    count, chunks, parts = _chunks(count_E, E, chunk_rows, EXPERTS)
    end_row, end_chunk = tl.cumsum(count, axis=0), tl.cumsum(chunks, axis=0)
    end_part = tl.cumsum(parts, axis=0)
    place = tl.program_id(0)
    if place >= tl.sum(chunks, axis=0) * num_m * num_n:
        return
    chunk = place // (num_m * num_n)
    m, n = _tile(place % (num_m * num_n), num_m, num_n, GROUP)
    i, j = m * BLOCK_M + tl.arange(0, BLOCK_M), n * BLOCK_N + tl.arange(0, BLOCK_N)
    expert = tl.sum((end_chunk <= chunk).to(tl.int32), axis=0)
    own = every == expert
    within = chunk - tl.sum(tl.where(own, end_chunk - chunks, 0), axis=0)
    last = tl.sum(tl.where(own, end_row, 0), axis=0)
    first = last - tl.sum(tl.where(own, count, 0), axis=0) + within * chunk_rows
    end = min(first + chunk_rows, last)
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
        grad = tl.dot(left_KM.T, right_KN, grad, input_precision=PRECISION)
    at_MN = i[:, None] * N + j[None, :]
    stored = (i < M)[:, None] & (j < N)[None, :]
    is_part = tl.sum(tl.where(own, parts, 0), axis=0) > 0
    if SPLIT and is_part:
        part = tl.sum(tl.where(own, end_part - parts, 0), axis=0) + within
        tl.store(part_SMN + part.to(tl.int64) * M * N + at_MN, grad, mask=stored)
    else:
        out_MN = grad_EMN + expert.to(tl.int64) * M * N + at_MN
        tl.store(out_MN, grad.to(grad_EMN.dtype.element_ty), mask=stored)


@triton.jit
def sum_parts_kernel(
    part_SMN,
    count_E,
    grad_EMN,
    E,
    size,
    chunk_rows,
    BLOCK: tl.constexpr,
    EXPERTS: tl.constexpr,
):
    """Sums the parts of every expert with several chunks, in their order; size = M N."""
    expert, every = tl.program_id(0), tl.arange(0, EXPERTS)
    _, _, parts = _chunks(count_E, E, chunk_rows, EXPERTS)
    num_parts = tl.sum(tl.where(every == expert, parts, 0), axis=0)
    if num_parts == 0:
        return
    first = tl.sum(tl.where(every < expert, parts, 0), axis=0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    part = part_SMN + first.to(tl.int64) * size + at
    for _ in range(num_parts):
        total += tl.load(part, mask=at < size, other=0.0)
        part += size
    out = grad_EMN + expert.to(tl.int64) * size + at
    tl.store(out, total.to(grad_EMN.dtype.element_ty), mask=at < size)


@triton.jit
def _chunks(count_E, E, chunk_rows, EXPERTS: tl.constexpr):
    """Of every expert: rows, chunks (one without rows), parts of its sum (none with one chunk)."""
    expert = tl.arange(0, EXPERTS)
    count = tl.load(count_E + expert, mask=expert < E, other=0).to(tl.int32)
    chunks = tl.where(expert < E, tl.maximum((count + chunk_rows - 1) // chunk_rows, 1), 0)
    return count, chunks, tl.where(chunks > 1, chunks, 0)


@triton.jit
def _product(
    left_M,
    matrix_E,
    expert,
    n0,
    N,
    K,
    TRANSPOSED: tl.constexpr,
    PRECISION: tl.constexpr,
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
        out = tl.dot(left_MK, matrix_KN, out, input_precision=PRECISION)
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
def _tile(place, num_m, num_n, GROUP: tl.constexpr):
    """Orders tiles in groups of GROUP rows of tiles, so that neighbours share matrices in L2."""
    group = place // (GROUP * num_n)
    height = min(num_m - group * GROUP, GROUP)
    within = place % (GROUP * num_n)
    return group * GROUP + within % height, within // height
