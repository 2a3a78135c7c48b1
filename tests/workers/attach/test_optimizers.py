"""Optimizers as other libraries wrap and drive them."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import evenload
from evenload.workers.attach import Balance
from tests.workers.attach.models import model, routers_of, tokens
from tests.workers.attach.sessions import attach

PER_STEP = 2 * tokens().numel()


def counted(balance: Balance) -> set[int]:
    return {int(count_E.sum()) for count_E in balance.counts().values()}


def test_an_optimizer_of_accelerate_moves_once_per_accumulated_step() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    trained = model()
    balance = attach(trained)
    optimizer = accelerator.prepare_optimizer(torch.optim.SGD(trained.parameters(), lr=0.1))
    balance.watch(optimizer, optimizer)
    for piece in range(6):
        with accelerator.accumulate(trained):
            accelerator.backward(trained.loss(tokens(seed=piece)))
            optimizer.step()
            optimizer.zero_grad()
    assert balance.steps == 3
    assert counted(balance) == {2 * PER_STEP}


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_skips_moves_nothing(fused: bool) -> None:
    trained = model()
    balance = attach(trained)
    optimizer = torch.optim.AdamW(trained.parameters(), fused=fused)
    balance.watch(optimizer)
    scaler = torch.amp.GradScaler("cpu")
    for step in range(3):
        scaler.scale(trained.loss(tokens())).backward()
        if step == 1:
            assert trained.head.weight.grad is not None
            trained.head.weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert balance.steps == 2
    assert counted(balance) == {2 * PER_STEP}, "tokens of the skipped step join the next"


def test_an_averaged_model_averages_the_bias_and_counts_for_nobody() -> None:
    trained = model()
    balance = attach(trained, {"kind": "sign", "step_size": 0.1})
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    balance.watch(optimizer)
    averaged = AveragedModel(trained, use_buffers=True)
    averaged.update_parameters(trained)
    at_first = balance.biases()
    trained.loss(tokens()).backward()
    optimizer.step()
    averaged.update_parameters(trained)
    for name, bias_E in balance.biases().items():
        mean_E = averaged.module.get_submodule(name).evenload_bias
        torch.testing.assert_close(mean_E, (at_first[name] + bias_E) / 2)
        assert mean_E.any()
    averaged.train()(tokens())
    balance.step()
    assert balance.steps == 1


def test_gradients_reach_no_bias_and_weight_decay_does_not_shrink_it() -> None:
    trained = model(own_bias=True)
    for router in routers_of(trained).values():
        bias_E = router._buffers.pop("e_score_correction_bias")
        router.e_score_correction_bias = nn.Parameter(bias_E, requires_grad=False)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.5, weight_decay=0.5)
    balance = attach(trained, {"kind": "sign", "step_size": 0.25, "centred": False})
    trained.requires_grad_(True)  # somebody unfreezes everything
    balance.watch(optimizer)
    trained.loss(tokens()).backward()
    optimizer.step()
    for bias_E in balance.biases().values():
        assert set(bias_E.abs().tolist()) <= {0.0, 0.25}
        assert bias_E.any()


def test_a_model_is_pickled_after_detach_and_refused_before() -> None:
    trained = model()
    balance = attach(trained)
    with pytest.raises(pickle.PicklingError):
        torch.save(trained, io.BytesIO())
    balance.detach()
    file = io.BytesIO()
    torch.save(trained, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    with torch.no_grad():
        assert torch.equal(again(tokens()), trained(tokens()))


def test_a_copy_of_an_attached_model_is_refused_until_detach() -> None:
    trained = model()
    balance = attach(trained)
    with pytest.raises(evenload.workers.attach.AttachError, match="copy of an attached model"):
        attach(copy.deepcopy(trained))
    balance.detach()
    attach(copy.deepcopy(trained))
