"""Where kernels are launched, and how exact the router's product is, without running a kernel.

Letters: T tokens, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.jit import JITFunction

from evenload.workers.kernels import tiles, triton_experts, triton_product, triton_router
from evenload.workers.kernels.triton_support import interpreting


@pytest.mark.skipif(interpreting(), reason="the interpreter has no devices")
def test_every_kernel_is_launched_on_the_device_of_its_tensors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current: list[Tensor] = []
    launched: set[str] = set()

    @contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        current.append(tensor)
        yield
        current.pop()

    def record(kernel: Any, grid: Any) -> Any:
        assert current, f"{kernel.__name__}: the current device may be another one"
        launched.add(kernel.__name__)
        return lambda *args, **kwargs: None

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(JITFunction, "__getitem__", record)
    monkeypatch.setattr(triton_experts, "_processors", lambda _: 132)
    x_TD, weight_ED, expert_TK = torch.empty(8, 16), torch.empty(4, 16), torch.zeros(8, 2).long()
    triton_product.product_of_halves._init_fn(x_TD, weight_ED)
    triton_product._gradients._init_fn(torch.empty(8, 4), x_TD, weight_ED)
    score_TE, gate = torch.empty(8, 4), (True, True, 1.0)
    triton_router._route._init_fn(score_TE, torch.empty(4), 2, *gate, 0, 1.0, 1)
    triton_router._route_backward._init_fn(score_TE, expert_TK, score_TE, None, *gate)
    matrices = torch.empty(4, 48, 16), torch.empty(4, 16, 24)
    order = torch.zeros(16).long(), torch.ones(16), torch.zeros(4).long(), torch.arange(16), None
    y_TD, kept_RG = triton_experts.experts._init_fn(x_TD, *matrices, *order, True)
    triton_experts.experts_backward._init_fn(y_TD, x_TD, *matrices, *order, kept_RG)
    assert launched >= {"route_kernel", "route_backward_kernel", "up_kernel", "grad_matrix_kernel"}
    assert not current


@pytest.mark.parametrize(
    ("capability", "shared", "name"),
    [((10, 0), 232_448, "sm_90"), ((12, 0), 101_376, "default"), ((8, 0), 166_912, "default")],
)
def test_a_gpu_without_a_table_has_that_of_hopper_if_its_tiles_fit(
    capability: tuple[int, int], shared: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        shared_memory_per_block_optin = shared

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "another GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    names = tiles.table_names.__wrapped__(torch.device("cuda"), torch.bfloat16)
    assert tiles.buckets_of(names) == tiles.buckets_of((name,))


def test_three_products_of_halves_route_as_float32_does() -> None:
    """The formula of tl.dot's bf16x3 in torch, because only a GPU computes the kernel so."""
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(2048, 2048, generator=generator)
    weight_ED = 0.02 * torch.randn(64, 2048, generator=generator)

    def halves(value: Tensor) -> tuple[Tensor, Tensor]:
        high = value.bfloat16().float()
        return high, (value - high).bfloat16().float()

    (x, low_x), (w, low_w) = halves(x_TD), halves(weight_ED)
    exact_TE = x_TD.double() @ weight_ED.double().T
    halves_TE = x @ w.T + (x @ low_w.T + low_x @ w.T)

    def error(logit_TE: Tensor) -> float:
        return float((logit_TE - exact_TE).norm() / exact_TE.norm())

    def moved(logit_TE: Tensor) -> float:
        """Share of the tokens that get another expert."""
        chosen, expected = (value.topk(6).indices.sort().values for value in (logit_TE, exact_TE))
        return float((chosen != expected).any(dim=1).float().mean())

    assert error(halves_TE) < 2**-17 < 2**-9 < error(x @ w.T)
    assert moved(halves_TE) < 0.002 < 0.01 < moved(x @ w.T)
