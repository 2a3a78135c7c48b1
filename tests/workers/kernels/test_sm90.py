"""Every launch compiles for Hopper as wanted, without a GPU: wgmma, bulk copies, no spills.

The tests record the launches of a forward and a backward pass instead of running them, then compile
them for sm_90 with their arguments: shapes of DeepSeekMoE-16B's layer, but few rows and experts.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402

from evenload.workers.kernels import triton_experts, triton_product, triton_router  # noqa: E402
from evenload.workers.kernels.triton_support import interpreting  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_MEMORY_BYTES = 232_448  # limit of a block on Hopper
WIDTH, HIDDEN, EXPERTS = 2048, 1408, 2

pytestmark = [
    pytest.mark.skipif(interpreting(), reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not (TOOLS / "ptxas").exists(), reason="this build of Triton has no ptxas"),
]


class Launch(NamedTuple):
    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.__name__)


class Compiled(NamedTuple):
    ptx: str
    shared_bytes: int
    registers: int
    spilled_bytes: int


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    recorded: list[Launch] = []

    def record(kernel: Any, grid: Any) -> Any:
        def launch(*args: Any, **kwargs: Any) -> None:
            names = kernel.arg_names
            given = dict(zip(names, args, strict=False)) | kwargs
            recorded.append(
                Launch(
                    kernel,
                    {name: given[name] for name in names},
                    {name: value for name, value in kwargs.items() if name not in names},
                )
            )

        return launch

    monkeypatch.setattr(JITFunction, "__getitem__", record)
    monkeypatch.setattr(triton_experts, "table_names", lambda *_: ("sm_90",))
    monkeypatch.setattr(triton_experts, "_processors", lambda _: 132)
    return recorded


def compile_for_hopper(launch: Launch, cubin: Path) -> Compiled:
    source = ASTSource(launch.kernel, *_signature(launch))
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=launch.options)
    cubin.write_bytes(binary.asm["cubin"])
    command = [TOOLS / "cuobjdump", "--dump-resource-usage", cubin]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert found is not None, usage
    registers, stack, local = map(int, found.groups())
    return Compiled(binary.asm["ptx"], binary.metadata.shared, registers, stack + local)


def _signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[Any, Any]]:
    """Types, constants and divisibility as a launch on a GPU would derive them."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[Any, Any] = {}
    for place, parameter in enumerate(launch.kernel.params):
        name, value = parameter.name, launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None or (isinstance(value, int) and value == 1):
            types[name], constants[name] = "constexpr", value
            continue
        types[name] = _type(value)
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def _type(value: Any) -> str:
    names = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.int32: "i32", torch.int64: "i64"}
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{names[value.base.dtype]}{list(value.block_shape)}>"
    if isinstance(value, torch.Tensor):
        return "*" + names[value.dtype]
    return "i32" if isinstance(value, int) else "fp32"


def record_layer(rows_per_expert: int, dtype: torch.dtype = torch.bfloat16) -> None:
    """A forward and a backward pass. No kernel runs, so memory need not be initialised."""
    rows = rows_per_expert * EXPERTS
    x_TD = torch.empty(rows, WIDTH, dtype=dtype)
    gate_up_EGD = x_TD.new_empty(EXPERTS, 2 * HIDDEN, WIDTH)
    down_EDF = x_TD.new_empty(EXPERTS, WIDTH, HIDDEN)
    row_R, count_E = torch.arange(rows), torch.zeros(EXPERTS, dtype=torch.int64)
    order = (row_R, torch.ones(rows), count_E, row_R, None)
    y_TD, gate_up_RG = triton_experts.experts._init_fn(x_TD, gate_up_EGD, down_EDF, *order, True)
    triton_experts.experts_backward._init_fn(y_TD, x_TD, gate_up_EGD, down_EDF, *order, gate_up_RG)


def check_products(
    launches: list[Launch], folder: Path, chosen: tuple[str, ...] | None = None
) -> None:
    """Args:     chosen: the kernels to compile; None: all"""
    products = [launch for launch in launches if "BLOCK_K" in launch.arguments]
    assert [launch.name for launch in products] == [
        "up_kernel",
        "rows_kernel",
        "grad_up_kernel",
        "grad_matrix_kernel",
        "grad_matrix_kernel",
        "rows_kernel",
    ]
    for launch in products:
        if chosen is not None and launch.name not in chosen:
            continue
        compiled = compile_for_hopper(launch, folder / "kernel.cubin")
        assert "wgmma.mma_async" in compiled.ptx, launch.name
        assert compiled.spilled_bytes == 0, launch.name
        assert compiled.shared_bytes <= SHARED_MEMORY_BYTES, launch.name
        by_descriptor = launch.name != "grad_matrix_kernel"
        assert ("cp.async.bulk.tensor" in compiled.ptx) == by_descriptor, launch.name


@pytest.mark.parametrize(
    "chosen", [("up_kernel",), pytest.param(None, id="all", marks=pytest.mark.slow)]
)
def test_products_of_many_rows_use_the_tensor_cores_and_spill_nothing(
    launches: list[Launch],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen: tuple[str, ...] | None,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    record_layer(rows_per_expert=3072)
    check_products(launches, tmp_path, chosen)


@pytest.mark.slow
def test_products_of_few_rows_use_the_tensor_cores_and_spill_nothing(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    record_layer(rows_per_expert=16)
    check_products(launches, tmp_path)


@pytest.mark.slow
def test_exact_float32_products_fit_and_spill_nothing(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_experts, "table_names", lambda *_: ("float32",))
    record_layer(rows_per_expert=16, dtype=torch.float32)
    for launch in launches:
        compiled = compile_for_hopper(launch, tmp_path / "kernel.cubin")
        assert compiled.spilled_bytes == 0, launch.name
        assert compiled.shared_bytes <= SHARED_MEMORY_BYTES, launch.name


@pytest.mark.slow
def test_the_product_of_the_router_uses_the_tensor_cores_and_spills_nothing(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton_experts, "table_names", lambda *_: ("bf16x3",))
    x_TD, weight_ED = torch.empty(4096, WIDTH), torch.empty(64, WIDTH)
    triton_product.product_of_halves._init_fn(x_TD, weight_ED)
    triton_product._gradients._init_fn(torch.empty(4096, 64), x_TD, weight_ED)
    products = [launch for launch in launches if "BLOCK_K" in launch.arguments]
    assert [launch.name for launch in products] == [*["rows_kernel"] * 2, "grad_matrix_kernel"]
    for launch in products:
        compiled = compile_for_hopper(launch, tmp_path / "kernel.cubin")
        assert "wgmma.mma_async" in compiled.ptx, launch.name
        assert compiled.spilled_bytes == 0, launch.name
        assert compiled.shared_bytes <= SHARED_MEMORY_BYTES, launch.name


@pytest.mark.slow
def test_routing_and_combining_spill_nothing(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    triton_router._route._init_fn(
        torch.empty(4096, 64), torch.empty(64), 6, True, True, 1.0, 55, 2.0**-22, 2
    )
    expert_TK = torch.empty(4096, 6, dtype=torch.int64)
    triton_router._route_backward._init_fn(
        torch.empty(4096, 64), expert_TK, None, torch.empty(4096, 6), True, True, 1.0
    )
    triton_experts.list_tiles(expert_TK.new_empty(64), 4096 * 6, 128)
    triton_experts.combine(torch.empty(99, WIDTH, dtype=torch.bfloat16), expert_TK, None, 33)
    assert [launch.name for launch in launches] == [
        "route_kernel",
        "sum_kernel",
        "place_kernel",
        "route_backward_kernel",
        "tile_kernel",
        "combine_kernel",
    ]
    for launch in launches:
        compiled = compile_for_hopper(launch, tmp_path / "kernel.cubin")
        assert compiled.spilled_bytes == 0, launch.name
        assert compiled.shared_bytes <= SHARED_MEMORY_BYTES, launch.name


@pytest.mark.slow
def test_the_router_of_many_choices_is_no_longer_than_that_of_few(
    launches: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations choose up to all experts. Unrolled, 64 choices take four minutes to compile."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for top_k in (8, 64):
        logit_TE = torch.empty(4096, 64)
        triton_router._route._init_fn(
            logit_TE, torch.empty(64), top_k, True, True, 1.0, 55, 2.0**-22, 2
        )
    few, many = (
        compile_for_hopper(launch, tmp_path / "kernel.cubin")
        for launch in launches
        if launch.name == "route_kernel"
    )
    assert few.spilled_bytes == many.spilled_bytes == 0
    assert len(many.ptx) < 1.5 * len(few.ptx)
