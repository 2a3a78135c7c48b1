"""What a session does over optimizer steps, on small models in plain torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evenload.workers.attach import AttachError, Balance
from evenload.workers.balancing import balancer
from evenload.workers.balancing.base import Observation
from tests.workers.attach import models
from tests.workers.attach.models import PROBE, chosen, dense_layer, model, moe_layer, tokens
from tests.workers.attach.sessions import BIAS_RULES, attach, equal, sgd, train


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
@pytest.mark.parametrize("rule", BIAS_RULES)
def test_every_rule_moves_the_bias_after_one_step_towards_the_starved(
    rule: str, own_bias: bool
) -> None:
    trained = model(own_bias=own_bias)
    balance, optimizer = attach(trained, rule), sgd(trained)
    balance.watch(optimizer)
    train(trained, optimizer, tokens())
    counts, biases = balance.counts(), balance.biases()
    assert equal(counts, chosen(trained))
    for name, count_E in counts.items():
        assert biases[name][count_E.argmin()] > biases[name][count_E.argmax()], name
        assert biases[name].sum().abs() < 1e-5


@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_the_bias_is_the_rules_own_update_of_the_counts_and_margins(own_bias: bool) -> None:
    trained = model(1, own_bias=own_bias)
    balance, optimizer = attach(trained), sgd(trained, 0.0)
    balance.watch(optimizer)
    rule = balancer("self_tuned", top_k=2)
    state: Any = rule.init(1, 8, torch.device("cpu"))
    layer = trained.layers[0]
    for step in range(4):
        token_BS = tokens(seed=step)
        with torch.no_grad():
            hidden_TD = nn.functional.layer_norm(trained.embed(token_BS), [models.WIDTH])
            score_TE = layer.mlp.gate.score(hidden_TD.flatten(0, 1))
        expert_TK = (score_TE + state.bias_LE).topk(2).indices
        count_LE = expert_TK.flatten().bincount(minlength=8)[None]
        statistic = rule.measure.of(score_TE, state.bias_LE[0], 2)[None]
        target_LE = torch.full((1, 8), expert_TK.numel() / 8)
        train(trained, optimizer, token_BS)
        assert torch.equal(balance.counts()["layers.0.mlp.gate"], count_LE[0])
        state = rule.update(Observation(count_LE, target_LE, 1.0, statistic), state)
        bias_E = balance.biases()["layers.0.mlp.gate"]
        torch.testing.assert_close(bias_E, state.bias_LE[0], rtol=0, atol=1e-6)


def test_balance_improves_and_the_model_still_learns() -> None:
    trained = model(3)
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)
    losses, vio = [], []
    for _ in range(40):
        losses.append(train(trained, optimizer, tokens(8, 32)))
        vio.append(sum(balance.max_vio().values()) / 3)
    assert balance.steps == 40
    assert vio[0] > 0.6
    assert max(vio[-5:]) < vio[0] / 2
    assert losses[-1] < losses[0]


def test_groups_that_are_chosen_first_are_balanced_too() -> None:
    """With the margins of masked scores, infinitely far, self_tuned ends between 1 and 1.7."""
    torch.manual_seed(0)
    router = models.GroupedRouter(16, 4)
    trained = models.Model([models.Layer(models.Experts(router, 16))])
    balance = attach(trained)
    violations = []
    for step in range(30):
        trained(tokens(32, 32, seed=step))
        balance.step()
        violations += balance.max_vio().values()
    assert violations[0] >= 0.5
    assert max(violations[-10:]) < 0.3


def test_micro_batches_of_a_step_equal_the_whole_batch() -> None:
    biases = []
    for pieces in (1, 8):
        trained = model()
        balance, optimizer = attach(trained), sgd(trained, 0.0)
        balance.watch(optimizer)
        for step in range(3):
            train(trained, optimizer, *tokens(8, seed=step).chunk(pieces))
        assert balance.steps == 3
        biases.append(balance.biases())
    assert equal(*biases)


@pytest.mark.parametrize("checkpointing", ["reentrant", "non-reentrant"])
def test_recomputation_counts_once(checkpointing: str) -> None:
    results = []
    for kind in ("", checkpointing):
        trained = model(checkpointing=kind)
        trained.embed.weight.requires_grad_(True)
        balance, optimizer = attach(trained), sgd(trained)
        balance.watch(optimizer)
        for step in range(3):
            train(trained, optimizer, tokens(seed=step))
            assert all(c.sum() == tokens().numel() * 2 for c in balance.counts().values())
        results.append(balance.biases())
    assert equal(*results)


def test_evaluation_generation_and_reference_passes_neither_count_nor_move() -> None:
    results = []
    for disturbed in (False, True):
        trained = model()
        balance, optimizer = attach(trained), sgd(trained)
        balance.watch(optimizer)
        for step in range(3):
            if disturbed:
                trained.eval()
                trained.loss(tokens(seed=7)).backward()
                with torch.no_grad():
                    trained(tokens(seed=8))
                trained.train()
                with torch.no_grad():
                    trained(tokens(seed=9))
            train(trained, optimizer, tokens(seed=step))
        results.append((balance.counts(), balance.biases()))
    assert equal(results[0][0], results[1][0])
    assert equal(results[0][1], results[1][1])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_half_way_leaves_nothing_behind(error: type[BaseException]) -> None:
    trained = model()
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)

    def fail(*_: Any) -> None:
        raise error

    handle = trained.layers[1].mlp.gate.register_forward_pre_hook(fail)
    with pytest.raises(error):
        trained.loss(tokens())
    handle.remove()
    chosen(trained)
    train(trained, optimizer, tokens())
    assert equal(balance.counts(), chosen(trained))


def test_frozen_layers_in_evaluation_mode_inside_a_training_model_count() -> None:
    trained = model(checkpointing="non-reentrant")
    trained.layers[0].eval().requires_grad_(False)
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)
    train(trained, optimizer, tokens())
    assert equal(balance.counts(), chosen(trained))
    assert balance.biases()["layers.0.mlp.gate"].abs().sum() > 0


def test_dense_layers_and_layers_of_other_sizes() -> None:
    torch.manual_seed(0)
    trained = models.Model(
        [dense_layer(), moe_layer(8, 2), dense_layer(), moe_layer(4, 1), moe_layer(8, 2, True)]
    )
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)
    train(trained, optimizer, tokens())
    assert equal(balance.counts(), chosen(trained))
    assert {name: int(c.sum()) for name, c in balance.counts().items()} == {
        "layers.1.mlp.gate": 128,
        "layers.3.mlp.gate": 64,
        "layers.4.mlp.gate": 128,
    }
    assert all(bias_E.abs().sum() > 0 for bias_E in balance.biases().values())


def test_a_copy_routes_with_its_own_bias_and_counts_for_nobody() -> None:
    trained = model()
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)
    train(trained, optimizer, tokens())
    copied = copy.deepcopy(trained)
    with torch.no_grad():
        expected = trained(tokens())
        assert torch.equal(copied(tokens()), expected)
        for router in models.routers_of(copied).values():
            router.evenload_bias[3] += 100.0
        chosen(copied)
        copied(tokens())
        assert all(
            (e == 3).any(-1).all() for r in models.routers_of(copied).values() for e in r.chosen
        )
        assert torch.equal(trained(tokens()), expected)
    chosen(trained)
    copied.loss(tokens()).backward()
    train(trained, optimizer, tokens())
    assert equal(balance.counts(), chosen(trained))
    copied.bfloat16()
    assert models.routers_of(copied)["layers.0.mlp.gate"].evenload_bias.dtype == torch.float32


def test_two_attached_models_do_not_mix() -> None:
    teacher, student = model(seed=1), model(seed=2)
    balances = [attach(teacher), attach(student)]
    teacher.loss(tokens())
    student.loss(tokens(2))
    for balance, each in zip(balances, (teacher, student), strict=True):
        balance.step()
        assert equal(balance.counts(), chosen(each))


def test_a_closure_that_runs_three_forwards_moves_once_from_all_their_tokens() -> None:
    trained = model()
    optimizer = torch.optim.LBFGS(trained.parameters(), lr=0.01, max_iter=3, tolerance_change=0)
    balance = attach(trained, {"kind": "sign", "step_size": 0.01})
    balance.watch(optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = trained.loss(tokens())
        loss.backward()
        return loss

    optimizer.step(closure)
    assert balance.steps == 1
    assert equal(balance.counts(), chosen(trained))
    assert all(count_E.sum() == 3 * 64 * 2 for count_E in balance.counts().values())


def test_a_step_that_a_fused_optimizer_skips_moves_nothing_and_its_tokens_join_the_next() -> None:
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01, fused=True)
    balance = attach(trained)
    balance.watch(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for step, factor in enumerate((float("inf"), 1.0)):
        optimizer.zero_grad()
        scaler.scale(trained.loss(tokens(seed=step)) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert balance.steps == step
        assert any(bias_E.any() for bias_E in balance.biases().values()) == bool(step)
    assert equal(balance.counts(), chosen(trained))


def test_several_optimizers_move_once_and_a_new_one_takes_over() -> None:
    trained = model()
    halves = [list(trained.layers[0].parameters()), list(trained.layers[1].parameters())]
    optimizers = [torch.optim.SGD(half, lr=0.1) for half in halves]
    balance = attach(trained).watch(*optimizers, optimizers[0])
    trained.loss(tokens()).backward()
    for optimizer in optimizers:
        optimizer.step()
    balance.step()
    assert balance.steps == 1
    del optimizer, optimizers
    other = sgd(trained)
    balance.watch(other)
    train(trained, other, tokens())
    assert balance.steps == 2


def test_an_optimizer_that_steps_inside_backward_moves_at_the_next_forward() -> None:
    trained = model(checkpointing="non-reentrant")
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)
    trained.head.weight.register_post_accumulate_grad_hook(lambda _: optimizer.step())
    trained.loss(tokens()).backward()
    assert balance.steps == 0
    assert not any(bias_E.any() for bias_E in balance.biases().values())
    trained.loss(tokens())
    assert balance.steps == 1
    assert all(bias_E.any() for bias_E in balance.biases().values())


def test_steps_between_are_counted_and_every_second_moves() -> None:
    trained = model()
    seen: list[tuple[int, Tensor, Tensor]] = []
    balance = attach(trained, every=2, recorder=lambda *record: seen.append(record))
    optimizer = sgd(trained, 0.0)
    balance.watch(optimizer)
    biases = []
    for step in range(4):
        train(trained, optimizer, tokens(seed=step))
        biases.append(torch.stack(list(balance.biases().values())))
    assert not biases[0].any()
    assert biases[1].any()
    assert torch.equal(biases[1], biases[2])
    assert not torch.equal(biases[2], biases[3])
    assert [step for step, *_ in seen] == [1, 2, 3, 4]
    assert all((count_LE.sum(dim=-1) == 128).all() for _, count_LE, _ in seen)
    assert torch.equal(seen[2][2], biases[1]), "the bias that routed the step"


@pytest.mark.parametrize("checkpointing", ["", "reentrant", "non-reentrant"])
@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_at_a_bias_of_zero_outputs_and_gradients_are_those_without(
    own_bias: bool, checkpointing: str
) -> None:
    results = []
    for attached in (False, True):
        trained = model(own_bias=own_bias, checkpointing=checkpointing)
        if attached:
            attach(trained)
        loss = trained.loss(tokens())
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in trained.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_none_records_and_changes_nothing() -> None:
    trained = model()
    keys = list(trained.state_dict())
    balance, optimizer = attach(trained, "none"), sgd(trained)
    balance.watch(optimizer)
    train(trained, optimizer, tokens())
    assert equal(balance.counts(), chosen(trained))
    assert balance.max_vio()["layers.0.mlp.gate"] > 0
    assert list(trained.state_dict()) == keys


def test_a_target_that_is_not_uniform_is_approached() -> None:
    share = (0.3, *[0.1] * 7)
    trained = model(1)
    balance, optimizer = attach(trained, {"kind": "self_tuned", "target": share}), sgd(trained, 0.0)
    balance.watch(optimizer)
    for _ in range(20):
        train(trained, optimizer, tokens(16, 32))
    count_E = balance.counts()["layers.0.mlp.gate"]
    assert count_E[0] / count_E.sum() == pytest.approx(0.3, abs=0.03)


def test_small_steps_add_up_beyond_where_bfloat16_stops() -> None:
    """0.5 + 0.001 is 0.5 in bfloat16."""
    trained = model(1).bfloat16()
    balance = attach(trained, {"kind": "sign", "step_size": 1e-3, "centred": False})
    trained.bfloat16()
    bias_E = trained.layers[0].mlp.gate.evenload_bias
    assert bias_E.dtype == torch.float32
    place, loser = bias_E.data_ptr(), 5
    with torch.no_grad():
        trained.layers[0].mlp.gate.weight[loser] = 0.0
        trained.layers[0].mlp.gate.weight *= 100
    for _ in range(700):
        trained(PROBE)
        balance.step()
    assert trained.layers[0].mlp.gate.evenload_bias.data_ptr() == place
    assert balance.biases()["layers.0.mlp.gate"].abs().max() > 0.6


def test_detach_leaves_the_model_as_it_was() -> None:
    for own_bias in (False, True):
        trained = model(own_bias=own_bias)
        before = trained.state_dict(keep_vars=True)
        classes = [type(module) for module in trained.modules()]
        random = torch.get_rng_state()
        balance = attach(trained)
        assert torch.equal(torch.get_rng_state(), random)
        assert trained.training
        balance.detach()
        after = trained.state_dict(keep_vars=True)
        assert list(after) == list(before)
        assert all(after[name] is before[name] for name in before)
        assert [type(module) for module in trained.modules()] == classes
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in trained.modules())
        assert not any(
            name.startswith("_evenload") for m in trained.modules() for name in m.__dict__
        )


CALLS: dict[str, Callable[[Balance], object]] = {
    "step": lambda balance: balance.step(),
    "watch": lambda balance: balance.watch(),
    "detach": lambda balance: balance.detach(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_session_says_so(call: Callable[[Balance], object]) -> None:
    balance = attach(model())
    balance.detach()
    with pytest.raises(AttachError, match="closed"):
        call(balance)


def test_steps_without_a_training_forward_are_said() -> None:
    trained = model()
    balance = attach(trained)
    balance.step()
    balance.step()
    with pytest.warns(UserWarning, match="3 optimizer steps, but no training forward"):
        balance.step()


def test_routers_that_were_replaced_are_said() -> None:
    """As adapters do that train whole modules: the model routes through copies of them."""
    trained = model()
    balance, optimizer = attach(trained), sgd(trained)
    balance.watch(optimizer)
    for layer in trained.layers:
        layer.mlp.gate = copy.deepcopy(layer.mlp.gate)  # type: ignore[union-attr]
    train(trained, optimizer, tokens())
    train(trained, optimizer, tokens())
    with pytest.warns(UserWarning, match="3 optimizer steps, but no training forward"):
        train(trained, optimizer, tokens())
    assert balance.steps == 0


def test_another_projects_own_step_size_is_zero_while_attached() -> None:
    trained = model(own_bias=True)
    routers = list(models.routers_of(trained).values())
    routers[0].load_balance_coeff = 0.01  # as torchtitan's layers
    shared = type("Config", (), {"moe_router_bias_update_rate": 0.02})()  # as Megatron's
    for router in routers:
        router.config = shared

    def step_sizes() -> list[float]:
        return [routers[0].load_balance_coeff, shared.moe_router_bias_update_rate]

    recording = attach(trained, "none")
    assert step_sizes() == [0.01, 0.02]
    recording.detach()
    balance = attach(trained)
    assert step_sizes() == [0.0, 0.0]
    balance.detach()
    assert step_sizes() == [0.01, 0.02]
