"""Letters: B sequences, S positions, V vocabulary, L expert layers, E experts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from evenload.pipeline.spec.own_model import ModelSpec
from evenload.workers.model.attention import rotation
from evenload.workers.model.transformer import ModelOutput, MoELanguageModel

Model = Callable[..., ModelSpec]


def make_model(spec: ModelSpec, backend: str = "torch", recompute: bool = False) -> Any:
    torch.manual_seed(0)
    return MoELanguageModel(spec, backend, recompute)


def no_bias(spec: ModelSpec) -> Tensor:
    return torch.zeros(spec.num_moe_layers, spec.num_experts)


def loss_of(output: ModelOutput, token_BS: Tensor) -> Tensor:
    """Next-token loss plus a term on the scores, so that gradients flow through both."""
    logits = output.logits_BSV[:, :-1].float().flatten(0, 1)
    balance = sum((routed.score_TE.mean(0) * routed.count_E).sum() for routed in output.routed)
    return functional.cross_entropy(logits, token_BS[:, 1:].flatten()) + 1e-3 * balance


@pytest.mark.parametrize(("selects", "leaks"), [("tokens", False), ("experts", True)])
def test_later_tokens_change_earlier_logits_only_if_experts_choose(
    spec_of: Model, token_BS: Tensor, selects: Any, leaks: bool
) -> None:
    spec = spec_of()
    model = make_model(spec)
    changed_BS = token_BS.clone()
    changed_BS[:, 10:] = (changed_BS[:, 10:] + 7) % 64
    one, other = (
        model(tokens, no_bias(spec), torch.add, selects).logits_BSV
        for tokens in (token_BS, changed_BS)
    )
    difference_S = (one - other).abs().amax(dim=(0, 2))
    assert bool((difference_S[:10] > 1e-5).any()) is leaks
    assert (difference_S[10:] > 1e-3).all()


@pytest.mark.parametrize("selects", ["tokens", "experts"])
def test_back_ends_agree_through_the_whole_model(
    spec_of: Model, token_BS: Tensor, selects: Any
) -> None:
    spec, results = spec_of(), []
    for backend in ("reference", "torch"):
        model = make_model(spec, backend)
        output = model(token_BS, no_bias(spec), torch.add, selects)
        grads = torch.autograd.grad(loss_of(output, token_BS), list(model.parameters()))
        results.append((output, grads))
    (one, one_grads), (other, other_grads) = results
    torch.testing.assert_close(one.logits_BSV, other.logits_BSV, rtol=1e-4, atol=1e-4)
    for left, right in zip(one_grads, other_grads, strict=True):
        assert (left - right).norm() <= 1e-4 * left.norm()


def test_every_expert_layer_reports_once_and_counts_everything(
    spec_of: Model, token_BS: Tensor
) -> None:
    spec = spec_of(num_layers=5, num_dense_layers=2)
    output = make_model(spec)(token_BS, no_bias(spec))
    assert [int(routed.count_E.sum()) for routed in output.routed] == [3 * 16 * 2] * 3


def test_each_layer_is_routed_by_its_own_bias(spec_of: Model, token_BS: Tensor) -> None:
    spec = spec_of()
    bias_LE = no_bias(spec)
    bias_LE[0, 1], bias_LE[1, 6] = 10.0, 10.0
    first, second = make_model(spec)(token_BS, bias_LE).routed
    assert (first.count_E[1], second.count_E[6]) == (48, 48)
    assert first.count_E[6] < 48


def test_a_model_holds_parameters_and_no_buffers(spec_of: Model) -> None:
    model = make_model(spec_of())
    assert list(model.buffers()) == []
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("adjust", [torch.add, lambda score, bias: torch.rand_like(score)])
def test_recomputation_changes_neither_counts_nor_gradients(
    spec_of: Model, token_BS: Tensor, adjust: Any
) -> None:
    spec, results = spec_of(), []
    for recompute in (False, True):
        model = make_model(spec, recompute=recompute)
        torch.manual_seed(5)
        output = model(token_BS, no_bias(spec), adjust)
        loss_of(output, token_BS).backward()
        counts = torch.stack([routed.count_E for routed in output.routed])
        results.append((counts, [parameter.grad for parameter in model.parameters()]))
    (counts, grads), (again, again_grads) = results
    assert counts.sum(dim=-1).tolist() == [96, 96]
    assert torch.equal(counts, again)
    for one, other in zip(grads, again_grads, strict=True):
        assert torch.equal(one, other)


def test_reentrant_recomputation_gives_the_same_counts_and_gradients(
    spec_of: Model, token_BS: Tensor
) -> None:
    spec = spec_of()
    block = make_model(spec).expert_blocks[0]
    turn = rotation(16, 16, 10000.0, torch.device("cpu"))
    results = []
    for recompute in (False, True):
        x_BSD = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(2)).requires_grad_()

        def flat(x_BSD: Tensor) -> tuple[Tensor, ...]:
            y_BSD, routed = block(x_BSD, turn, torch.zeros(8), torch.add, "tokens")
            return y_BSD, routed.score_TE, routed.count_E

        outputs = checkpoint(flat, x_BSD, use_reentrant=True) if recompute else flat(x_BSD)
        (outputs[0].square().sum() + outputs[1].sum()).backward()
        results.append((outputs[-1], x_BSD.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert int(results[0][0].sum()) == 96
    assert torch.equal(results[0][1], results[1][1])


def test_recomputation_keeps_only_block_inputs(spec_of: Model, token_BS: Tensor) -> None:
    spec, kept = spec_of(), []
    for recompute in (False, True):
        model = make_model(spec, recompute=recompute)
        seen = Counter[str]()

        def count(tensor: Tensor, seen: Counter[str] = seen) -> Tensor:
            seen["tensors"] += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(token_BS, no_bias(spec))
        kept.append(seen["tensors"])
    assert kept[1] < kept[0] / 4


def test_evaluation_computes_no_gradient_and_the_same_logits(
    spec_of: Model, token_BS: Tensor
) -> None:
    spec = spec_of()
    model = make_model(spec, recompute=True)
    trained = model(token_BS, no_bias(spec)).logits_BSV
    with torch.no_grad():
        evaluated = model.eval()(token_BS, no_bias(spec)).logits_BSV
    assert torch.equal(trained, evaluated)
    assert not evaluated.requires_grad


@pytest.mark.parametrize("how", ["cast", "autocast"])
def test_bf16_keeps_routing_float32_and_trains(spec_of: Model, token_BS: Tensor, how: str) -> None:
    spec = spec_of()
    exact = make_model(spec)(token_BS, no_bias(spec))
    model = make_model(spec)
    if how == "cast":
        model.bfloat16()
    stream: set[torch.dtype] = set()
    for block in model.expert_blocks:
        block.register_forward_pre_hook(lambda _, inputs: stream.add(inputs[0].dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        output = model(token_BS, no_bias(spec))
    assert stream == {torch.float32 if how == "autocast" else torch.bfloat16}
    loss_of(output, token_BS).backward()
    assert output.logits_BSV.dtype == torch.bfloat16
    for routed in output.routed:
        assert routed.score_TE.dtype == routed.weight_TK.dtype == torch.float32
        assert int(routed.count_E.sum()) == 96
    error = (output.logits_BSV - exact.logits_BSV).norm() / exact.logits_BSV.norm()
    assert 1e-3 < error < 0.1
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_frozen_routers_learn_nothing_and_pass_gradients_on(
    spec_of: Model, token_BS: Tensor
) -> None:
    spec = spec_of()
    model = make_model(spec)
    model.freeze_routers()
    loss_of(model(token_BS, no_bias(spec)), token_BS).backward()
    frozen = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert frozen == [f"expert_blocks.{layer}.ffn.router.weight_ED" for layer in (0, 1)]


def test_tied_embeddings_are_one_weight(spec_of: Model) -> None:
    model = make_model(spec_of(tie_embeddings=True))
    assert model.head.weight is model.embedding.weight
    assert make_model(spec_of()).head.weight is not model.embedding.weight


def test_weights_start_with_the_given_standard_deviation(spec_of: Model) -> None:
    model = make_model(spec_of(init_std=0.006))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            assert float(parameter.detach().std()) == pytest.approx(0.006, rel=0.15), name
        else:
            assert torch.equal(parameter, torch.ones_like(parameter)), name


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_loss_falls_in_twenty_steps(spec_of: Model, gate: str, autocast: bool) -> None:
    spec = spec_of(gate=gate, init_std=0.02)
    model = make_model(spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    token_BS = torch.arange(8 * 16).view(8, 16) * 5 % 64
    losses = []
    for _ in range(20):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(token_BS, no_bias(spec))
        loss = functional.cross_entropy(
            output.logits_BSV[:, :-1].float().flatten(0, 1), token_BS[:, 1:].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(4.16, abs=0.1)  # log 64
    assert losses[-1] < 2


# torch's own warning: its tracer makes an instance of each autograd function.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning")
@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 1e-5), (True, 1e-2)])
def test_the_torch_path_is_one_graph(
    spec_of: Model, token_BS: Tensor, autocast: bool, tolerance: float
) -> None:
    """With fullgraph, torch raises if the code waits for the device or branches on data."""
    spec = spec_of()
    model = make_model(spec)
    results = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = run(token_BS, no_bias(spec))
        grads = torch.autograd.grad(loss_of(output, token_BS), list(model.parameters()))
        results.append((output, grads))
    (eager, eager_grads), (compiled, compiled_grads) = results
    torch.testing.assert_close(compiled.logits_BSV, eager.logits_BSV)
    assert torch.equal(compiled.routed[1].count_E, eager.routed[1].count_E)
    for one, other in zip(eager_grads, compiled_grads, strict=True):
        assert (one - other).norm() <= tolerance * one.norm()
