"""One expert layer, forward and backward: our back ends and rivals on the same tensors.

Every arm is compared with the float32 reference before it is timed. The time includes its row
order. Arms take turns with each other and with dense products of the same sizes, which are an upper
bound. FLOPs are those of the model, without padding.
Letters: T tokens, E experts, K top-k, D width, F expert width, G = 2F gate and up, R = T K rows.
"""

from __future__ import annotations

import gc
import math
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenload.workers.kernels import reference
from evenload.workers.kernels.rows import count_experts, rows_of_tokens
from evenload.workers.kernels.triton_support import interpreting
from evenload.workers.tuning.timing import Timing, in_turn
from infra.benchmarks.expert_arms import Arm, Case, arms


class Shape(NamedTuple):
    name: str
    tokens: int
    width: int
    hidden: int
    experts: int
    top_k: int

    @property
    def forward_flops(self) -> float:
        return 6.0 * self.tokens * self.top_k * self.width * self.hidden


GPU_SHAPES = (
    Shape("DeepSeekMoE-16B", 32_768, 2048, 1408, 64, 6),
    Shape("small", 32_768, 1024, 512, 64, 6),
    Shape("SonicMoE 7B", 24_576, 1536, 256, 128, 8),
    Shape("E 256, K 8", 32_768, 2048, 512, 256, 8),
)
CPU_SHAPES = (Shape("on a CPU", 4096, 256, 128, 32, 4),)
QUICK_SHAPES = (Shape("quick", 64, 64, 32, 8, 2),)
TURNS = 20
QUICK_TURNS = 3
DENSE = "dense bound"


def shapes_of(device: torch.device, quick: bool) -> tuple[Shape, ...]:
    return QUICK_SHAPES if quick else GPU_SHAPES if device.type == "cuda" else CPU_SHAPES


def run(quick: bool = False, shapes: tuple[Shape, ...] = ()) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    found, missing = arms(device)
    shapes = shapes or shapes_of(device, quick)
    turns = 1 if interpreting() else QUICK_TURNS if quick else TURNS
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "gpu": gpu_state(),
        "interpreted": interpreting(),
        "turns": turns,
        "missing": missing,
        "shapes": [
            {
                **shape._asdict(),
                "routings": {
                    routing: measure(shape, expert_TK_of, found, dtype, device, turns)
                    for routing, expert_TK_of in ROUTINGS.items()
                },
            }
            for shape in shapes
        ],
    }


def table(document: dict[str, Any]) -> str:
    lines = ["in Triton's interpreter, so times mean nothing"] if document["interpreted"] else []
    for shape in document["shapes"]:
        sizes = ", ".join(f"{name} {shape[name]:,}" for name in Shape._fields[1:])
        lines += ["", f"{shape['name']}: {sizes}, {document['dtype']}"]
        for routing, result in shape["routings"].items():
            lines.append(
                f"  {routing:<24} forward ms   both ms   TFLOP/s  of bound  kept MB    error"
            )
            lines += [_line(name, arm) for name, arm in result["arms"].items()]
            lines += [f"    {name:<24} {why}" for name, why in result["failed"].items()]
    lines += [f"missing: {name}: {why}" for name, why in document["missing"].items()]
    return "\n".join(lines)


def _line(name: str, arm: dict[str, Any]) -> str:
    forward, both = arm["forward"], arm["forward_backward"]
    kept = "-" if arm["saved_bytes"] is None else f"{arm['saved_bytes'] / 1e6:.1f}"
    error = "-" if arm["relative_error"] is None else f"{arm['relative_error']:.1e}"
    return (
        f"    {name:<24}{forward['median_ms']:>8.3f}{both['median_ms']:>10.3f}"
        f"{both['tflops']:>10.3f}{both['share_of_bound']:>10.0%}{kept:>9}{error:>9}"
    )


def measure(
    shape: Shape,
    expert_TK_of: Callable[[Shape], Tensor],
    found: dict[str, Arm],
    dtype: torch.dtype,
    device: torch.device,
    turns: int,
) -> dict[str, Any]:
    """Times, errors and memory of all arms on one routing, and the errors of failed arms."""
    case = make_case(shape, expert_TK_of(shape), dtype, device)
    errors, failed = checked(case, found)
    good = {name: found[name] for name in errors}
    dense = Dense(shape, dtype, device)
    forward = in_turn(
        {name: _forward(arm, case) for name, arm in good.items()} | {DENSE: dense.forward},
        device,
        turns,
    )
    both = in_turn(
        {name: _both(arm, case) for name, arm in good.items()} | {DENSE: dense.both}, device, turns
    )
    flops = shape.forward_flops
    return {
        "failed": failed,
        "arms": {
            name: {
                "forward": _figures(forward[name], flops, forward[DENSE]),
                "forward_backward": _figures(both[name], 3 * flops, both[DENSE]),
                "relative_error": errors.get(name),
                "saved_bytes": saved_bytes(good[name], case) if name in good else None,
                "peak_bytes": peak_bytes(good[name], case) if name in good else None,
            }
            for name in forward
        },
    }


def make_case(shape: Shape, expert_TK: Tensor, dtype: torch.dtype, device: torch.device) -> Case:
    """Random weights and inputs, because a GPU is faster on zeros."""
    generator = torch.Generator(device).manual_seed(0)

    def leaf(*size: int) -> Tensor:
        value = torch.randn(*size, generator=generator, device=device) / math.sqrt(size[-1])
        return value.to(dtype).requires_grad_()

    weight_TK = torch.rand(shape.tokens, shape.top_k, generator=generator, device=device)
    return Case(
        leaf(shape.tokens, shape.width),
        leaf(shape.experts, 2 * shape.hidden, shape.width),
        leaf(shape.experts, shape.width, shape.hidden),
        expert_TK.to(device),
        weight_TK.requires_grad_(),
    )


def balanced(shape: Shape) -> Tensor:
    """Every expert has the same number of rows (up to one), with tokens in random order."""
    return _dealt(shape, shape.experts)


def one_empty(shape: Shape) -> Tensor:
    """The last expert has no rows, the others have equally many."""
    return _dealt(shape, shape.experts - 1)


def zipf(shape: Shape) -> Tensor:
    """Expert e has odds 1/(e + 1), without replacement, like a router without balancing."""
    generator = torch.Generator().manual_seed(2)
    odds_E = 1 / torch.arange(1, shape.experts + 1)
    return odds_E.expand(shape.tokens, -1).multinomial(shape.top_k, generator=generator)


def _dealt(shape: Shape, experts: int) -> Tensor:
    """Deals experts from a shuffled deck, like cards, to tokens in random order."""
    generator = torch.Generator().manual_seed(1)
    deck_E = torch.randperm(experts, generator=generator)
    assignment_R = torch.arange(shape.tokens * shape.top_k) % experts
    token_T = torch.randperm(shape.tokens, generator=generator)
    return deck_E[assignment_R].view(shape.tokens, shape.top_k)[token_T]


ROUTINGS: dict[str, Callable[[Shape], Tensor]] = {
    "balanced": balanced,
    "zipf": zipf,
    "one expert empty": one_empty,
}


def checked(case: Case, found: dict[str, Arm]) -> tuple[dict[str, float], dict[str, str]]:
    """The largest relative error of each arm over output and gradients, and the failed arms."""
    exact = results(_reference, _in_float32(case))
    errors: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, arm in found.items():
        try:
            actual = results(arm, case)
        except Exception as error:
            if name.startswith("evenload"):
                raise
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        parts = {part: _relative_error(actual[part], exact[part]) for part in exact}
        worst = max(parts, key=lambda part: parts[part])
        if parts[worst] <= tolerance(case):
            errors[name] = parts[worst]
        else:
            failed[name] = f"relative error {parts[worst]:.1e} of {worst}"
    del exact
    gc.collect()
    return errors, failed


def tolerance(case: Case) -> float:
    """A few roundings to the dtype. In float32 the rounding of long sums dominates."""
    eps = torch.finfo(case.x_TD.dtype).eps
    terms = max(case.x_TD.shape) if case.x_TD.dtype is torch.float32 else 4
    return 2 * eps * math.sqrt(terms)


def results(arm: Arm, case: Case) -> dict[str, Tensor]:
    """The output and every gradient, with a fixed gradient of the output."""
    y_TD = arm(case)
    generator = torch.Generator(y_TD.device).manual_seed(3)
    grad_TD = torch.randn(y_TD.shape, generator=generator, device=y_TD.device)
    leaves = _leaves(case)
    grads = torch.autograd.grad(y_TD, list(leaves.values()), grad_TD.to(y_TD.dtype))
    return {"y_TD": y_TD.detach(), **dict(zip(leaves, grads, strict=True))}


def saved_bytes(arm: Arm, case: Case) -> int:
    """Memory that a forward pass keeps for backward, without its inputs."""
    inputs = {value.untyped_storage().data_ptr() for value in case}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in inputs:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        y_TD = arm(case)
    del y_TD
    return sum(kept.values())


def peak_bytes(arm: Arm, case: Case) -> int | None:
    """Peak memory of both passes without their inputs; None without a GPU."""
    if not case.x_TD.is_cuda:
        return None
    call = _both(arm, case)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    return int(torch.cuda.max_memory_allocated() - before)


class Dense:
    """The six products of a layer as plain products over all rows, which no grouped one beats."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        rows = shape.tokens * shape.top_k

        def matrix(*size: int) -> Tensor:
            return torch.randn(*size, device=device).to(dtype)

        self._x_RD, self._act_RF = matrix(rows, shape.width), matrix(rows, shape.hidden)
        self._gate_up_RG = matrix(rows, 2 * shape.hidden)
        self._gate_up_GD = matrix(2 * shape.hidden, shape.width)
        self._down_DF = matrix(shape.width, shape.hidden)

    def forward(self) -> None:
        torch.mm(self._x_RD, self._gate_up_GD.T)
        torch.mm(self._act_RF, self._down_DF.T)

    def both(self) -> None:
        self.forward()
        torch.mm(self._x_RD, self._down_DF)
        torch.mm(self._x_RD.T, self._act_RF)
        torch.mm(self._gate_up_RG, self._gate_up_GD)
        torch.mm(self._gate_up_RG.T, self._x_RD)


def gpu_state() -> str | None:
    """Driver, clocks and power limit from the driver's own tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    fields = "driver_version,clocks.sm,clocks.mem,power.limit"
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout.strip() or None


def _forward(arm: Arm, case: Case) -> Callable[[], None]:
    def call() -> None:
        with torch.no_grad():
            arm(case)

    return call


def _both(arm: Arm, case: Case) -> Callable[[], None]:
    grad_TD = torch.randn_like(case.x_TD)
    leaves = list(_leaves(case).values())

    def call() -> None:
        torch.autograd.grad(arm(case), leaves, grad_TD)

    return call


def _figures(timing: Timing, flops: float, bound: Timing) -> dict[str, float]:
    return {
        "median_ms": 1e3 * timing.median,
        "low_ms": 1e3 * timing.low,
        "high_ms": 1e3 * timing.high,
        "tflops": flops / timing.median / 1e12,
        "share_of_bound": bound.median / timing.median,
    }


def _leaves(case: Case) -> dict[str, Tensor]:
    return {name: value for name, value in case._asdict().items() if value.requires_grad}


def _in_float32(case: Case) -> Case:
    high = {name: leaf.detach().float().requires_grad_() for name, leaf in _leaves(case).items()}
    return case._replace(**high)


def _reference(case: Case) -> Tensor:
    count_E = count_experts(case.expert_TK, len(case.down_EDF))
    rows = rows_of_tokens(case.expert_TK, case.weight_TK, count_E)
    return reference.run_experts(case.x_TD, case.gate_up_EGD, case.down_EDF, rows)


def _relative_error(actual: Tensor, exact: Tensor) -> float:
    error = torch.linalg.vector_norm(actual.float() - exact)
    return float(error / torch.linalg.vector_norm(exact))
