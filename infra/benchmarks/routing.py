"""The router from logits to sorted rows: score, bias, top-k, gate weights, counts, row order.

On a GPU every arm is measured twice, as a call and as a CUDA graph, because the host is slower than
the device between a dozen short launches. The bound is a copy of the logits in the same run.
Letters: T tokens, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.workers.kernels.backends import resolve_backend
from evenload.workers.kernels.ops import router_of
from evenload.workers.kernels.routing import Gate
from evenload.workers.kernels.rows import count_experts, rows_of_tokens
from evenload.workers.tuning.timing import Timing, in_turn
from infra.benchmarks.cuda_graphs import replayed
from infra.benchmarks.moe_layer import gpu_state


class Shape(NamedTuple):
    tokens: int
    experts: int
    top_k: int


SHAPES = (Shape(32_768, 64, 6), Shape(16_384, 128, 8), Shape(16_384, 256, 8))
QUICK_SHAPES = (Shape(512, 16, 2),)
TURNS = 50
QUICK_TURNS = 5
COPY = "copy of the logits"

Route = Callable[[Tensor, Tensor, Gate], object]


def run(quick: bool = False) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shapes, turns = (QUICK_SHAPES, QUICK_TURNS) if quick else (SHAPES, TURNS)
    found, missing = arms(device)
    return {
        "gpu": gpu_state(),
        "turns": turns,
        "missing": missing,
        "shapes": [
            {**shape._asdict(), "arms": measure(shape, found, device, turns)} for shape in shapes
        ],
    }


def table(document: dict[str, Any]) -> str:
    lines = []
    for shape in document["shapes"]:
        sizes = ", ".join(f"{name} {shape[name]:,}" for name in Shape._fields)
        lines += ["", f"{sizes:<44}  called us  as a graph us"]
        for name, arm in shape["arms"].items():
            graph = arm["graph"]
            shown = arm.get("no_graph", "-") if graph is None else f"{graph['median_us']:.1f}"
            lines.append(f"  {name:<42}{arm['called']['median_us']:>11.1f}  {shown:>13}")
    lines += [f"missing: {name}: {why}" for name, why in document["missing"].items()]
    return "\n".join(lines)


def arms(device: torch.device) -> tuple[dict[str, Route], dict[str, str]]:
    """The arms that run on a device, and the reasons why others do not."""
    found: dict[str, Route] = {"evenload torch": route_in_torch}
    missing: dict[str, str] = {}
    try:
        route = router_of(resolve_backend("triton", device.type))
        assert route is not None
        found["evenload triton"] = route
    except SpecError as error:
        missing["evenload triton"] = str(error)
    if find_spec("liger_kernel") is None or device.type != "cuda":
        missing["torch + Liger's rows"] = "needs a GPU and pip install liger-kernel"
    else:
        found["torch + Liger's rows"] = _with_liger_rows()
    return found, missing


def measure(
    shape: Shape, found: dict[str, Route], device: torch.device, turns: int
) -> dict[str, dict[str, Any]]:
    generator = torch.Generator(device).manual_seed(0)
    size = (shape.tokens, shape.experts)
    logit_TE = torch.randn(size, generator=generator, device=device)
    bias_E = torch.randn(shape.experts, generator=generator, device=device) / 100
    gate = Gate(shape.top_k, softmax=False, renormalise=True, route_scale=1.0)
    copy_TE = torch.empty_like(logit_TE)
    calls: dict[str, Callable[[], object]] = {
        name: lambda route=route: route(logit_TE, bias_E, gate)  # type: ignore[misc]
        for name, route in found.items()
    }
    calls[COPY] = lambda: copy_TE.copy_(logit_TE)
    graphs, reasons = _graphs(calls, device)
    called, replay = in_turn(calls, device, turns), in_turn(graphs, device, turns)
    return {
        name: {
            "called": _figures(called[name]),
            "graph": _figures(replay[name]) if name in replay else None,
        }
        | ({"no_graph": reasons[name]} if name in reasons else {})
        for name in calls
    }


def choose_in_torch(logit_TE: Tensor, bias_E: Tensor, gate: Gate) -> tuple[Tensor, Tensor]:
    """Chooses experts and gate weights with torch's operators."""
    score_TE = logit_TE.softmax(dim=-1) if gate.softmax else logit_TE.sigmoid()
    expert_TK = (score_TE + bias_E).topk(gate.top_k, dim=-1).indices
    weight_TK = score_TE.gather(-1, expert_TK)
    if gate.renormalise:
        weight_TK = weight_TK / weight_TK.sum(dim=-1, keepdim=True)
    return expert_TK, weight_TK * gate.route_scale


def route_in_torch(logit_TE: Tensor, bias_E: Tensor, gate: Gate) -> object:
    expert_TK, weight_TK = choose_in_torch(logit_TE, bias_E, gate)
    return rows_of_tokens(expert_TK, weight_TK, count_experts(expert_TK, len(bias_E)))


def _with_liger_rows() -> Route:
    rows_of = import_module("liger_kernel.ops.fused_moe").compute_routing_metadata

    def route(logit_TE: Tensor, bias_E: Tensor, gate: Gate) -> object:
        expert_TK, _ = choose_in_torch(logit_TE, bias_E, gate)
        return rows_of(expert_TK.int(), len(bias_E))

    return route


def _graphs(
    calls: dict[str, Callable[[], object]], device: torch.device
) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """The calls that a CUDA graph can capture, and the reasons why it cannot capture others."""
    graphs: dict[str, Callable[[], object]] = {}
    reasons: dict[str, str] = {}
    if device.type != "cuda":
        return graphs, reasons
    for name, call in calls.items():
        try:
            graphs[name] = replayed(call, device)
        except RuntimeError as error:
            if name.startswith("evenload"):
                raise
            reasons[name] = str(error).splitlines()[0]
    return graphs, reasons


def _figures(timing: Timing) -> dict[str, float]:
    return {f"{name}_us": 1e6 * seconds for name, seconds in timing._asdict().items()}
