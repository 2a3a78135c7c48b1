"""Implementations of an expert layer that a benchmark runs on the same tensors.

An arm computes the row order and the output of a layer from (x, gate_up, down, expert, weight).
Rivals are optional packages; `arms` names the missing ones with the reason.
Letters: T tokens, E experts, K top-k, D width, F expert width, G = 2F gate and up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from evenload.pipeline.errors import SpecError
from evenload.workers.kernels.backends import resolve_backend
from evenload.workers.kernels.ops import experts_of
from evenload.workers.kernels.rows import count_experts, rows_of_tokens
from evenload.workers.kernels.triton_support import interpreting

SCATTERMOE = "axolotl/integrations/kernels/libs/scattermoe_lora"  # inside axolotl's wheel


class Case(NamedTuple):
    """The inputs of a layer. Those with a floating dtype are leaves with gradients."""

    x_TD: Tensor
    gate_up_EGD: Tensor
    down_EDF: Tensor
    expert_TK: Tensor  # int64
    weight_TK: Tensor  # float32


Arm = Callable[[Case], Tensor]


class Missing(Exception):
    """An arm cannot run here; the text names the remedy."""


def arms(device: torch.device) -> tuple[dict[str, Arm], dict[str, str]]:
    """The arms that run on a device, and the reasons why others do not."""
    found: dict[str, Arm] = {}
    missing: dict[str, str] = {}
    for name, make in ARMS.items():
        try:
            found[name] = make(device)
        except Missing as reason:
            missing[name] = str(reason)
    return found, missing


def _ours(backend: str) -> Callable[[torch.device], Arm]:
    def make(device: torch.device) -> Arm:
        try:
            run_experts = experts_of(resolve_backend(backend, device.type))
        except SpecError as error:
            raise Missing(str(error)) from error
        rows_of = _triton_rows() if backend == "triton" else _torch_rows

        def arm(case: Case) -> Tensor:
            rows = rows_of(case.expert_TK, case.weight_TK, len(case.down_EDF))
            return run_experts(case.x_TD, case.gate_up_EGD, case.down_EDF, rows)

        return arm

    return make


def _torch_rows(expert_TK: Tensor, weight_TK: Tensor, num_experts: int) -> Any:
    return rows_of_tokens(expert_TK, weight_TK, count_experts(expert_TK, num_experts))


def _triton_rows() -> Callable[[Tensor, Tensor, int], Any]:
    return import_module("infra.benchmarks.triton_row_order").rows_of_tokens


def _transformers(device: torch.device) -> Arm:
    _require("transformers")
    grouped_mm = import_module("transformers.integrations.moe").grouped_mm_experts_forward

    def arm(case: Case) -> Tensor:
        # Attributes of its decorated expert modules. A float32 gate weight would promote the rest.
        layer = _Attributes(
            gate_up_proj=case.gate_up_EGD,
            down_proj=case.down_EDF,
            num_experts=len(case.down_EDF),
        )
        y_TD: Tensor = grouped_mm(layer, case.x_TD, case.expert_TK, case.weight_TK)
        return y_TD

    return arm


class _Attributes:
    """The attributes of a transformers expert module with SwiGLU, without the module."""

    has_gate, has_bias, is_transposed, is_concatenated = True, False, False, True
    has_post_expert_norm = _is_expert_parallel = False

    def __init__(self, gate_up_proj: Tensor, down_proj: Tensor, num_experts: int) -> None:
        self.gate_up_proj, self.down_proj = gate_up_proj, down_proj
        self.num_experts = num_experts

    @staticmethod
    def _apply_gate(gate_up_RG: Tensor) -> Tensor:
        gate_RF, up_RF = gate_up_RG.chunk(2, dim=-1)
        return functional.silu(gate_RF) * up_RF


def _liger(device: torch.device) -> Arm:
    _require_gpu(device)
    _require("liger_kernel", "liger-kernel")
    function = import_module("liger_kernel.ops.fused_moe").LigerFusedMoEFunction

    def arm(case: Case) -> Tensor:
        expert_TK = case.expert_TK.int()
        y_TD: Tensor = function.apply(
            case.x_TD, case.gate_up_EGD, case.down_EDF, expert_TK, case.weight_TK
        )
        return y_TD

    return arm


def _scattermoe(device: torch.device) -> Arm:
    _require_gpu(device)
    parallel_linear = _load_scattermoe().parallel_linear

    def arm(case: Case) -> Tensor:
        (_, top_k), num_experts = case.expert_TK.shape, len(case.down_EDF)
        sorted_R, order_R = case.expert_TK.flatten().sort()
        offset_E = count_experts(case.expert_TK, num_experts).cumsum(0)
        order = (sorted_R, order_R, offset_E)
        gate_up_RG = parallel_linear(
            case.x_TD, case.gate_up_EGD.permute(0, 2, 1), top_k, *order, grouped_out=True
        )
        gate_RF, up_RF = gate_up_RG.chunk(2, dim=-1)
        y_TD: Tensor = parallel_linear(
            functional.silu(gate_RF) * up_RF,
            case.down_EDF.permute(0, 2, 1),
            1,
            *order,
            gates=case.weight_TK,
            grouped_in=True,
        )
        return y_TD

    return arm


def _load_scattermoe() -> ModuleType:
    """Loads its two files from axolotl's wheel without axolotl's many requirements."""
    folders = [Path(entry) / SCATTERMOE for entry in sys.path]
    folder = next((folder for folder in folders if (folder / "parallel_experts.py").exists()), None)
    if folder is None:
        raise Missing("not installed: pip install --no-deps axolotl")
    for name, path in (("scattermoe", folder), ("scattermoe.kernels", folder / "kernels")):
        package = ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    sys.modules["scattermoe.kernels"].__dict__["ops"] = import_module("scattermoe.kernels.ops")
    return import_module("scattermoe.parallel_experts")


def _sonicmoe(device: torch.device) -> Arm:
    if device.type != "cuda":
        raise Missing("needs a GPU")
    _require("sonicmoe", "--no-deps sonic-moe quack-kernels nvidia-cutlass-dsl")
    sonicmoe = import_module("sonicmoe")
    swiglu = import_module("sonicmoe.enums").ActivationType.SWIGLU

    def arm(case: Case) -> Tensor:
        num_tokens, top_k = case.expert_TK.shape
        token_R = torch.arange(num_tokens, device=case.x_TD.device, dtype=torch.int32)
        y_TD: Tensor
        y_TD, _ = sonicmoe.moe_general_routing_inputs(
            case.x_TD,
            case.weight_TK.flatten(),
            token_R.repeat_interleave(top_k, output_size=num_tokens * top_k),
            case.expert_TK.flatten().int(),
            case.gate_up_EGD.permute(1, 2, 0),
            None,
            case.down_EDF.permute(1, 2, 0),
            None,
            len(case.down_EDF),
            torch.cuda.current_stream().cuda_stream,
            swiglu,
            False,
            concat_layout=True,
        )
        return y_TD

    return arm


def _require(module: str, package: str | None = None) -> None:
    if find_spec(module) is None:
        raise Missing(f"not installed: pip install {package or module}")


def _require_gpu(device: torch.device) -> None:
    """Accepts Triton's interpreter too, which shows whether an arm is correct but not its speed."""
    if device.type != "cuda" and not interpreting():
        raise Missing("needs a GPU")


ARMS: dict[str, Callable[[torch.device], Arm]] = {
    "evenload triton": _ours("triton"),
    "evenload torch": _ours("torch"),
    "transformers grouped_mm": _transformers,
    "ScatterMoE": _scattermoe,
    "Liger": _liger,
    "SonicMoE": _sonicmoe,
}
