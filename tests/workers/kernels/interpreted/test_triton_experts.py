"""Tests of the Triton experts beyond the conformance suite of all back ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.workers.kernels import reference, triton_experts
from evenload.workers.kernels.rows import Rows, count_experts, rows_of_tokens
from evenload.workers.kernels.tiles import Tile, Tiles

TOKENS, EXPERTS, TOP_K = 23, 4, 2
TILE = Tile(block_m=16, block_n=16, block_k=16, group=2, num_warps=4, num_stages=1)
SMALL = Tiles(
    rows_per_expert=None,
    **dict.fromkeys(("up", "down", "grad_up", "grad_rows", "grad_matrix"), TILE),
)


class Layer:
    """An expert layer of odd sizes; expert 3 is empty."""

    def __init__(self, width: int, hidden: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(width)

        def leaf(*shape: int) -> Tensor:
            value = torch.randn(*shape, generator=generator) / shape[-1] ** 0.5
            return value.to(dtype).requires_grad_()

        self.x_TD = leaf(TOKENS, width)
        self.gate_up_EGD = leaf(EXPERTS, 2 * hidden, width)
        self.down_EDF = leaf(EXPERTS, width, hidden)
        self.weight_TK = torch.rand(TOKENS, TOP_K, generator=generator).requires_grad_()
        score_TE = torch.rand(TOKENS, EXPERTS, generator=generator)
        score_TE[:, 3] -= 1
        self.expert_TK = score_TE.topk(TOP_K).indices

    def in_float32(self) -> Layer:
        high = Layer.__new__(Layer)
        for name, value in vars(self).items():
            leaf = value.is_floating_point()
            setattr(high, name, value.detach().float().requires_grad_() if leaf else value)
        return high

    def rows(self) -> Rows:
        count_E = count_experts(self.expert_TK, EXPERTS)
        return rows_of_tokens(self.expert_TK, self.weight_TK, count_E)

    def results(self, run_experts: Callable[..., Tensor], **options: Any) -> dict[str, Tensor]:
        """The output and every gradient."""
        names = ("x_TD", "gate_up_EGD", "down_EDF", "weight_TK")
        leaves = [getattr(self, name) for name in names]
        y_TD = run_experts(*leaves[:3], self.rows(), **options)
        grad_TD = torch.randn(y_TD.shape, generator=torch.Generator().manual_seed(1)).to(y_TD)
        grads = torch.autograd.grad(y_TD, leaves, grad_TD)
        return {"y_TD": y_TD.detach(), **dict(zip(names, grads, strict=True))}


def assert_close(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    for name, value in expected.items():
        error = (actual[name].double() - value.double()).norm() / value.double().norm()
        assert error <= bound, f"{name}: {error:.1e} > {bound:.1e}"


@pytest.mark.parametrize(
    ("width", "hidden"), [(19, 13), (24, 40)], ids=["by pointer", "by descriptor"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_odd_sizes_agree_with_the_reference_in_float32(
    width: int, hidden: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiles are so small that every size needs several of them."""
    monkeypatch.setattr(triton_experts, "tiles_for", lambda *_: SMALL)
    layer = Layer(width, hidden, dtype)
    expected = layer.in_float32().results(reference.run_experts)
    eps, terms = torch.finfo(dtype).eps, max(TOKENS, width, hidden)
    # Sums are float32, and their error grows with the root of their length. Rounding a result to
    # its dtype counts once or twice, with at most half an eps.
    bound = eps if dtype is torch.float16 else eps * terms**0.5
    assert_close(layer.results(triton_experts.run_experts), expected, bound)


@pytest.mark.parametrize("count", [[40, 0, 3, 9], [0, 0, 52, 0], [13, 13, 13, 13]], ids=str)
def test_gradients_of_matrices_split_over_their_rows_are_the_same(
    count: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last tiles and the last chunks are not full, and there are fewer parts than room."""
    monkeypatch.setattr(triton_experts, "_processors", lambda _: 8)
    generator = torch.Generator().manual_seed(0)
    x_TD, grad_RG = (torch.randn(52, width, generator=generator) for width in (19, 24))
    token_R = torch.randperm(52, generator=generator)
    products = triton_experts.Products(x_TD, torch.tensor(count), token_R, torch.ones(52))
    torch.use_deterministic_algorithms(True)  # fills new memory with NaN
    try:
        actual_EGD = products.grad_matrix(grad_RG, x_TD, gather="right")
    finally:
        torch.use_deterministic_algorithms(False)
    parts = zip(grad_RG.split(count), x_TD[token_R].split(count), strict=True)
    expected_EGD = torch.stack([left.T @ right for left, right in parts])
    torch.testing.assert_close(actual_EGD, expected_EGD, rtol=1e-5, atol=1e-5)


def test_only_matrices_that_the_copy_engine_can_read_get_a_descriptor() -> None:
    assert triton_experts._matrix(torch.zeros(2, 8, 4), 16, 16)[1]
    assert not triton_experts._matrix(torch.zeros(2, 8, 5), 16, 16)[1]
    assert not triton_experts._matrix(torch.zeros(2, 8, 4, dtype=torch.float16), 16, 16)[1]


def test_recomputing_changes_no_bit_and_keeps_only_the_input() -> None:
    layer = Layer(16, 24, torch.float32)
    kept, recomputed = saved_elements(layer), saved_elements(layer, recompute=True)
    row_order = TOKENS * TOP_K * 3 + EXPERTS  # token, weight and place of every row; counts
    assert recomputed == TOKENS * 16 + row_order
    assert kept == recomputed + TOKENS * TOP_K * 2 * 24
    plain = layer.results(triton_experts.run_experts)
    again = layer.results(triton_experts.run_experts, recompute=True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def saved_elements(layer: Layer, **options: Any) -> int:
    """Number of elements that the operator keeps for backward, without parameters."""
    rows = layer.rows()
    parameters = {layer.gate_up_EGD.data_ptr(), layer.down_EDF.data_ptr()}
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters and tensor.numel():
            saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        triton_experts.run_experts(layer.x_TD, layer.gate_up_EGD, layer.down_EDF, rows, **options)
    return sum(saved.values())


def test_nothing_is_kept_without_gradients() -> None:
    layer = Layer(16, 24, torch.float32)
    with torch.no_grad():
        _, gate_up_RG = torch.ops.evenload.experts(
            layer.x_TD,
            layer.gate_up_EGD,
            layer.down_EDF,
            *layer.rows()[:3],
            layer.rows().row_TK.flatten(),
            None,
            False,
        )
    assert gate_up_RG.shape == (0, 48)


def test_every_element_of_a_result_is_written() -> None:
    """Deterministic mode fills new memory with NaN."""
    layer = Layer(19, 13, torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all()
        results = layer.results(triton_experts.run_experts)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(value.isfinite().all() for value in results.values())


def test_tokens_may_differ_in_their_number_of_rows() -> None:
    layer = Layer(16, 24, torch.float32)
    weight_R = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.25], requires_grad=True)
    rows = Rows(torch.tensor([0, 5, 5, 22, 0]), weight_R, torch.tensor([1, 1, 0, 3]), row_TK=None)
    leaves = [layer.x_TD, layer.gate_up_EGD, layer.down_EDF, weight_R]
    results = []
    for run_experts in (triton_experts.run_experts, reference.run_experts):
        y_TD = run_experts(layer.x_TD, layer.gate_up_EGD, layer.down_EDF, rows)
        grads = torch.autograd.grad(y_TD.square().sum(), leaves)
        results.append(dict(zip("yxgdw", [y_TD.detach(), *grads], strict=True)))
    assert_close(*results, bound=4 * torch.finfo(torch.float32).eps * 24**0.5)
    assert (results[0]["y"] != 0).any(dim=1).nonzero().flatten().tolist() == [0, 5, 22]


def test_a_layer_without_tokens_gives_an_empty_result() -> None:
    layer = Layer(16, 24, torch.float32)
    expert_TK = torch.zeros(0, 2, dtype=torch.int64)
    rows = rows_of_tokens(expert_TK, torch.zeros(0, 2), count_experts(expert_TK, EXPERTS))
    x_TD = torch.zeros(0, 16, requires_grad=True)
    y_TD = triton_experts.run_experts(x_TD, layer.gate_up_EGD, layer.down_EDF, rows)
    (grad_EDF,) = torch.autograd.grad(y_TD.sum(), layer.down_EDF)
    assert y_TD.shape == (0, 16)
    assert grad_EDF.abs().max() == 0


def test_the_operator_passes_torchs_checks() -> None:
    """The checks cover schema, fake implementation and autograd registration."""
    layer = Layer(16, 8, torch.float32)
    rows = layer.rows()
    arguments = (
        layer.x_TD[:, :16],
        layer.gate_up_EGD,
        layer.down_EDF,
        rows.token_R,
        rows.weight_R.detach().requires_grad_(),
        rows.count_E,
        rows.row_TK.flatten(),
        None,
        True,
    )
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.evenload.experts, arguments, test_utils=checks)


def test_compiling_needs_no_break_and_changes_nothing() -> None:
    layer = Layer(16, 8, torch.float32)

    def run(x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor, weight_TK: Tensor) -> Tensor:
        rows = layer.rows()._replace(weight_R=weight_TK.flatten()[order_R])
        return triton_experts.run_experts(x_TD, gate_up_EGD, down_EDF, rows)

    order_R = layer.expert_TK.flatten().argsort(stable=True)
    leaves = [layer.x_TD, layer.gate_up_EGD, layer.down_EDF, layer.weight_TK]
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    plain, traced = run(*leaves), compiled(*leaves)
    assert torch.equal(plain, traced)
    for one, other in zip(
        torch.autograd.grad(plain.sum(), leaves),
        torch.autograd.grad(traced.sum(), leaves),
        strict=True,
    ):
        assert torch.equal(one, other)
