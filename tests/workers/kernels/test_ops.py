"""Every back end agrees with the reference in values and gradients, also on unusual routings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.trial import RuntimeSpec
from evenload.workers.kernels import reference, triton_support
from evenload.workers.kernels.backends import BACKENDS, check_widths, resolve_backend
from evenload.workers.kernels.ops import experts_of
from evenload.workers.kernels.rows import Rows, count_experts, rows_of_tokens

# In Triton's interpreter (test_interpreter.py) this includes the Triton kernels.
RUNNABLE = [
    name
    for name, backend in BACKENDS.items()
    if backend.why_not("cpu") is None and name != "reference"
]
# Triton's interpreter computes bf16 wrongly.
IN_BF16 = [name for name in RUNNABLE if not name.startswith("triton")]


def token_choice(case: Any) -> Rows:
    count_E = count_experts(case.expert_TK, len(case.down_EDF))
    return rows_of_tokens(case.expert_TK, case.weight_TK, count_E)


def expert_choice(case: Any) -> Rows:
    """Experts 0, 1 and 2 take every token, expert 3 the last one, the others none."""
    tokens = len(case.x_TD)
    token_R = torch.cat([torch.arange(tokens).repeat(3), torch.tensor([tokens - 1])])
    count_E = torch.zeros(len(case.down_EDF), dtype=torch.int64)
    count_E[:4] = torch.tensor([tokens, tokens, tokens, 1])
    weight_R = case.weight_TK.mean(dim=-1)[token_R]
    return Rows(token_R, weight_R, count_E, row_TK=None)


def values_and_gradients(run_experts: Any, case: Any, rows: Rows) -> dict[str, Tensor]:
    y_TD = run_experts(case.x_TD, case.gate_up_EGD, case.down_EDF, rows)
    grad_TD = torch.randn(y_TD.shape, generator=torch.Generator().manual_seed(1)).to(y_TD)
    leaves = case.leaves
    grads = torch.autograd.grad(y_TD, list(leaves.values()), grad_TD)
    return {"y_TD": y_TD.detach(), **dict(zip(leaves, grads, strict=True))}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], bound: float) -> None:
    for name, value in expected.items():
        assert relative_error(actual[name], value) <= bound, name


@pytest.mark.parametrize("backend", RUNNABLE)
@pytest.mark.parametrize("rows_of", [token_choice, expert_choice])
def test_back_ends_agree_with_the_reference(
    backend: str, rows_of: Callable[[Any], Rows], case: Any
) -> None:
    expected = values_and_gradients(reference.run_experts, case, rows_of(case))
    actual = values_and_gradients(experts_of(backend), case, rows_of(case))
    # Rounding errors of a sum grow with the root of its length, and both sides have them. If there
    # is only one number to compare (the weight of the only token), its terms may cancel.
    terms = max(case.x_TD.shape + case.down_EDF.shape)
    assert_same(actual, expected, bound=4 * torch.finfo(torch.float32).eps * terms**0.5)


@pytest.mark.parametrize("backend", ["reference", *RUNNABLE])
def test_an_expert_without_tokens_has_a_zero_gradient(
    backend: str, case_of: Callable[..., Any]
) -> None:
    case = case_of("one empty")
    assert not (case.expert_TK == 5).any()
    result = values_and_gradients(experts_of(backend), case, token_choice(case))
    assert result["gate_up_EGD"][5].abs().max() == 0
    assert result["down_EDF"][5].abs().max() == 0
    assert result["gate_up_EGD"][4].abs().max() > 0


@pytest.mark.parametrize("backend", IN_BF16)
def test_bf16_agrees_with_the_float32_reference_of_the_same_numbers(
    backend: str, case_of: Callable[..., Any]
) -> None:
    low = case_of("uniform", torch.bfloat16)
    high = low._replace(**{n: v.detach().float().requires_grad_() for n, v in low.leaves.items()})
    expected = values_and_gradients(reference.run_experts, high, token_choice(high))
    actual = values_and_gradients(experts_of(backend), low, token_choice(low))
    assert actual["y_TD"].dtype == torch.bfloat16
    # Sums are float32 inside, so the error is a few random roundings of at most half an eps.
    assert_same(actual, expected, bound=torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("backend", ["reference", *IN_BF16])
def test_autocast_computes_in_bf16_and_returns_the_input_dtype(
    backend: str, case_of: Callable[..., Any]
) -> None:
    case = case_of("uniform")
    expected = values_and_gradients(reference.run_experts, case, token_choice(case))
    with torch.autocast("cpu", torch.bfloat16):
        actual = values_and_gradients(experts_of(backend), case, token_choice(case))
    error = relative_error(actual["y_TD"], expected["y_TD"])
    assert actual["y_TD"].dtype == torch.float32
    assert 1e-4 < error < torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("backend", RUNNABLE)
def test_the_expanded_gradient_of_a_sum_is_accepted(
    backend: str, case_of: Callable[..., Any]
) -> None:
    case = case_of("uniform")
    experts_of(backend)(
        case.x_TD, case.gate_up_EGD, case.down_EDF, token_choice(case)
    ).sum().backward()
    assert case.x_TD.grad.norm() > 0


@pytest.mark.parametrize("backend", RUNNABLE)
def test_reruns_are_bit_equal(backend: str, case_of: Callable[..., Any]) -> None:
    case = case_of("uniform")
    first = values_and_gradients(experts_of(backend), case, token_choice(case))
    second = values_and_gradients(experts_of(backend), case, token_choice(case))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("width", "hidden", "message"),
    [
        (16, 6, r"model\.d_expert=6: .* multiple of 4 in float32; use 8 or"),
        (18, 8, r"model\.d_model=18: .* multiple of 4 in float32; use 20 or"),
    ],
)
def test_widths_that_grouped_mm_refuses_are_named(width: int, hidden: int, message: str) -> None:
    expert_TK = torch.zeros(3, 1, dtype=torch.int64)
    rows = rows_of_tokens(expert_TK, torch.ones(3, 1), count_experts(expert_TK, 2))
    weights = torch.zeros(2, 2 * hidden, width), torch.zeros(2, width, hidden)
    with pytest.raises(SpecError, match=message):
        experts_of("torch")(torch.zeros(3, width), *weights, rows)


def test_the_spec_knows_every_back_end() -> None:
    field = RuntimeSpec.model_fields["backend"]
    assert set(get_args(field.annotation)) == {"auto", *BACKENDS}


def test_auto_is_torch_and_a_name_stays_itself() -> None:
    assert resolve_backend("auto", "cpu") == "torch"
    assert resolve_backend("auto", "cuda") == "torch"
    assert resolve_backend("reference", "cpu") == "reference"


def test_triton_is_refused_without_a_gpu_and_the_remedy_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SpecError, match=r"backend='triton' needs a GPU.*backend: torch"):
        resolve_backend("triton", "cpu")
    assert resolve_backend("triton", "cuda") == "triton"


def test_triton_runs_on_a_cpu_in_its_interpreter_but_not_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve_backend("triton", "cpu") == "triton"
    check_widths("triton", 7, 9, 4)
    with pytest.raises(SpecError, match=r"bf16.*use train.precision: float32"):
        check_widths("triton", 7, 9, 2)


def test_triton_is_refused_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_support, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"not installed.*backend: torch"):
        resolve_backend("triton", "cuda")


def test_an_old_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(SpecError, match=r"compute capability 8\.0"):
        resolve_backend("triton", "cuda")


def test_an_unknown_back_end_names_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"'cutlass' is unknown; choose one of reference, torch"):
        resolve_backend("cutlass", "cpu")


@pytest.mark.parametrize("backend", IN_BF16)
def test_bf16_activations_are_weighted_in_float32_and_rounded_once(backend: str) -> None:
    """Identity matrices give the output silu(x) x w, which shows a weight rounded to bf16."""
    generator = torch.Generator().manual_seed(0)
    x_TD = torch.randn(500, 8, generator=generator).bfloat16()
    weight_TK = torch.rand(500, 1, generator=generator)
    identity = torch.eye(8, dtype=torch.bfloat16)[None]
    expert_TK = torch.zeros(500, 1, dtype=torch.int64)
    rows = rows_of_tokens(expert_TK, weight_TK, count_experts(expert_TK, 1))
    y_TD = experts_of(backend)(x_TD, torch.cat([identity, identity], dim=1), identity, rows)
    exact_TD = torch.nn.functional.silu(x_TD.double()) * x_TD.double() * weight_TK
    assert (y_TD == exact_TD.bfloat16()).float().mean() > 0.999
