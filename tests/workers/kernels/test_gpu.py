"""Tests of the Triton kernels that need a GPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evenload.workers.kernels import reference
from evenload.workers.kernels.backends import resolve_backend
from evenload.workers.kernels.ops import router_of
from evenload.workers.kernels.routing import Gate
from evenload.workers.kernels.rows import Rows, count_experts, rows_of_tokens
from infra.benchmarks.cuda_graphs import no_waiting

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

DEVICE = "cuda"
LEAVES = ("x_TD", "gate_up_EGD", "down_EDF", "weight_TK")
ROUTINGS = ("uniform", "all on one", "one empty", "one token", "every expert", "odd sizes")


@pytest.fixture
def run_experts() -> Callable[..., Tensor]:
    from evenload.workers.kernels.triton_experts import run_experts

    assert resolve_backend("triton", "cuda") == "triton"
    return run_experts


def make_layer(routing: str, tokens: int, width: int, hidden: int) -> dict[str, Tensor]:
    experts, top_k = (4, 4) if routing == "every expert" else (8, 2)
    tokens = {"one token": 1, "odd sizes": tokens + 13}.get(routing, tokens)
    # Drawn on the CPU, so that a bound can be checked for these numbers without a GPU.
    generator = torch.Generator().manual_seed(tokens)

    def random(*shape: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) / shape[-1] ** 0.5).to(DEVICE)

    score_TE = torch.rand(tokens, experts, generator=generator)
    score_TE[:, 5 % experts] += {"all on one": 1.0, "one empty": -1.0}.get(routing, 0.0)
    weight_TK = torch.rand(tokens, top_k, generator=generator)
    return {
        "x_TD": random(tokens, width).bfloat16().requires_grad_(),
        "gate_up_EGD": random(experts, 2 * hidden, width).bfloat16().requires_grad_(),
        "down_EDF": random(experts, width, hidden).bfloat16().requires_grad_(),
        "weight_TK": weight_TK.to(DEVICE).requires_grad_(),
        "expert_TK": score_TE.topk(top_k).indices.to(DEVICE),
        "grad_TD": random(tokens, width).bfloat16(),
    }


def rows_of(layer: dict[str, Tensor]) -> Rows:
    count_E = count_experts(layer["expert_TK"], len(layer["down_EDF"]))
    return rows_of_tokens(layer["expert_TK"], layer["weight_TK"], count_E)


def results(run: Callable[..., Tensor], layer: dict[str, Tensor]) -> dict[str, Tensor]:
    """The output and every gradient."""
    y_TD = run(*(layer[name] for name in LEAVES[:3]), rows_of(layer))
    grad_TD = layer["grad_TD"].to(y_TD.dtype)
    grads = torch.autograd.grad(y_TD, [layer[name] for name in LEAVES], grad_TD)
    return {"y_TD": y_TD.detach(), **dict(zip(LEAVES, grads, strict=True))}


def in_float32(layer: dict[str, Tensor]) -> dict[str, Tensor]:
    high = {name: layer[name].detach().float().requires_grad_() for name in LEAVES}
    return layer | high


@pytest.mark.parametrize(("width", "hidden"), [(256, 192), (72, 40), (65, 33)], ids=str)
@pytest.mark.parametrize("routing", ROUTINGS)
def test_bf16_agrees_with_the_float32_reference(
    routing: str, width: int, hidden: int, run_experts: Callable[..., Tensor]
) -> None:
    layer = make_layer(routing, 400, width, hidden)
    expected = results(reference.run_experts, in_float32(layer))
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills fresh memory with NaN
    actual = results(run_experts, layer)
    torch.use_deterministic_algorithms(False)
    # The only token has two weights, and the terms of their gradients may cancel.
    bound = torch.finfo(torch.bfloat16).eps * (2 if routing == "one token" else 1)
    for name, value in expected.items():
        error = (actual[name].float() - value).norm() / value.norm()
        assert error <= bound, name


def test_float32_agrees_with_the_reference(run_experts: Callable[..., Tensor]) -> None:
    layer = in_float32(make_layer("odd sizes", 400, 72, 40))
    expected, actual = results(reference.run_experts, layer), results(run_experts, layer)
    for name, value in expected.items():
        error = (actual[name] - value).norm() / value.norm()
        # Products are exact. Those of the tensor cores (tf32) would be wrong by 3e-4.
        assert error <= 2 * torch.finfo(torch.float32).eps * 413**0.5, name


def test_reruns_are_bit_equal(run_experts: Callable[..., Tensor]) -> None:
    layer = make_layer("uniform", 5000, 512, 384)
    first = results(run_experts, layer)
    for _ in range(3):
        again = results(run_experts, layer)
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_nothing_waits_for_the_device(run_experts: Callable[..., Tensor]) -> None:
    layer = make_layer("uniform", 300, 128, 64)
    route = router_of("triton")
    assert route is not None
    logit_TE, bias_E = torch.zeros(300, 8, device=DEVICE), torch.zeros(8, device=DEVICE)
    with no_waiting():
        routed = route(logit_TE, bias_E, Gate(2, True, True, 1.0))
        y_TD = run_experts(*(layer[name] for name in LEAVES[:3]), routed.rows)
        torch.autograd.grad(y_TD, layer["x_TD"], layer["grad_TD"].to(y_TD.dtype))


def test_a_graph_replays_forward_and_backward(run_experts: Callable[..., Tensor]) -> None:
    layer = make_layer("uniform", 300, 128, 64)
    expected = results(run_experts, layer)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(run_experts, layer)
    graph.replay()
    assert all(torch.equal(captured[name], expected[name]) for name in expected)


def test_compiling_needs_no_break_and_changes_nothing(run_experts: Callable[..., Tensor]) -> None:
    layer = make_layer("uniform", 300, 128, 64)

    def run(x_TD: Tensor, gate_up_EGD: Tensor, down_EDF: Tensor) -> Tensor:
        return run_experts(x_TD, gate_up_EGD, down_EDF, rows_of(layer))

    matrices = [layer[name] for name in LEAVES[:3]]
    compiled = torch.compile(run, fullgraph=True)(*matrices)
    assert torch.equal(compiled, run(*matrices))


@pytest.mark.parametrize("softmax", [True, False])
def test_the_router_agrees_with_torch(softmax: bool) -> None:
    route = router_of("triton")
    assert route is not None
    generator = torch.Generator(DEVICE).manual_seed(0)
    logit_TE = torch.randn(5001, 96, generator=generator, device=DEVICE)
    bias_E = torch.randn(96, generator=generator, device=DEVICE) / 10
    routed = route(logit_TE, bias_E, Gate(7, softmax, True, 1.5))
    score_TE = logit_TE.softmax(dim=-1) if softmax else logit_TE.sigmoid()
    torch.testing.assert_close(routed.score_TE, score_TE, rtol=1e-5, atol=1e-7)
    # Compared by value, because rounding decides which of two equal scores is the seventh.
    biased_TE = routed.score_TE + bias_E
    chosen_TK = biased_TE.gather(-1, routed.expert_TK)
    torch.testing.assert_close(chosen_TK, biased_TE.topk(7).values, rtol=0, atol=2e-7)
    assert (routed.expert_TK.sort().values.diff() > 0).all()
    rows = rows_of_tokens(routed.expert_TK, routed.weight_TK, routed.count_E)
    assert torch.equal(routed.count_E, count_experts(routed.expert_TK, 96))
    assert torch.equal(routed.rows.token_R, rows.token_R)
    assert torch.equal(routed.rows.weight_R, rows.weight_R)


def test_the_product_of_halves_and_its_gradients_err_by_a_few_millionths() -> None:
    from evenload.workers.kernels.triton_product import product_of_halves

    generator = torch.Generator(DEVICE).manual_seed(0)
    leaves = [
        torch.randn(*shape, generator=generator, device=DEVICE).requires_grad_()
        for shape in ((5001, 1040), (72, 1040))
    ]
    grad_TO = torch.randn(5001, 72, generator=generator, device=DEVICE)
    results = []
    for product, kind in ((product_of_halves, torch.float32), (torch.mm, torch.float64)):
        x_TD, weight_OD = (leaf.detach().to(kind).requires_grad_() for leaf in leaves)
        other = weight_OD if kind is torch.float32 else weight_OD.T
        y_TO = product(x_TD, other)
        grads = torch.autograd.grad(y_TO, [x_TD, weight_OD], grad_TO.to(kind))
        results.append([y_TO.detach(), *grads])
    for actual, exact in zip(*results, strict=True):
        assert (actual - exact).norm() / exact.norm() <= 2**-16  # tf32 errs by 2^-12


def test_elements_past_two_to_the_31_are_reached(run_experts: Callable[..., Tensor]) -> None:
    tokens, width, hidden = 400_000, 64, 2816
    assert tokens * 2 * hidden > 2**31
    generator = torch.Generator(DEVICE).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE) / shape[-1] ** 0.5

    layer = {
        "x_TD": 8 * random(tokens, width),
        "gate_up_EGD": random(2, 2 * hidden, width),
        "down_EDF": random(2, width, hidden),
    }
    layer = {name: value.bfloat16().requires_grad_() for name, value in layer.items()}
    layer["weight_TK"] = torch.ones(tokens, 1, device=DEVICE, requires_grad=True)
    layer["expert_TK"] = torch.ones(tokens, 1, dtype=torch.int64, device=DEVICE)
    layer["grad_TD"] = random(tokens, width)
    actual = results(run_experts, layer)
    last = slice(tokens - 64, tokens)
    few = layer | {
        name: layer[name][last].detach().requires_grad_() for name in ("x_TD", "weight_TK")
    }
    few["expert_TK"] = layer["expert_TK"][last]
    expected = reference.run_experts(*(few[name] for name in LEAVES[:3]), rows_of(few))
    error = (actual["y_TD"][last].float() - expected.float()).norm() / expected.float().norm()
    assert error <= torch.finfo(torch.bfloat16).eps
    assert actual["x_TD"][last].float().norm() > 0
    assert all(value.isfinite().all() for value in actual.values())


@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer here")
def test_the_memory_checker_finds_nothing() -> None:
    chosen = "test_bf16_agrees_with_the_float32_reference and odd"
    command = ["compute-sanitizer", "--error-exitcode", "9", sys.executable, "-m", "pytest"]
    ended = subprocess.run(
        [*command, "-q", __file__, "-k", chosen],
        # Every tensor gets an allocation of its own, with no readable memory next to it.
        env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-4000:]
