"""Padding is neither counted nor does it move a bias."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.workers.attach import models
from tests.workers.attach.models import model, tokens
from tests.workers.attach.sessions import attach, equal


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
@pytest.mark.parametrize("shape", [(4, 16), (2, 4)], ids=["", "as many tokens as experts"])
@pytest.mark.parametrize("rule", ["self_tuned", "quantile"])
def test_padding_changes_nothing(rule: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    token_BS = tokens(*shape)
    plain, padded = model(), model()
    balances = [attach(plain, rule), attach(padded, rule)]
    padding_BS = torch.zeros_like(token_BS[:, :3])
    mask_BS = torch.cat([torch.ones_like(token_BS), padding_BS], dim=1).to(dtype)
    for step in range(3):
        plain.loss((token_BS + step) % models.WORDS)
        filled_BS = torch.cat([(token_BS + step) % models.WORDS, padding_BS], dim=1)
        padded(filled_BS, mask_BS)  # by position
        for balance in balances:
            balance.step()
        assert equal(balances[0].counts(), balances[1].counts())
        assert equal(balances[0].biases(), balances[1].biases())


def test_a_mask_that_does_not_fit_is_said_once_and_everything_counts() -> None:
    trained = model()
    balance = attach(trained)
    with pytest.warns(UserWarning, match=r"routes 64 tokens, but attention_mask .*\(4, 15\)"):
        trained(tokens(), attention_mask=torch.ones(4, 15))
    trained(tokens(), attention_mask=torch.ones(4, 15))
    balance.step()
    assert all(count_E.sum() == 2 * 64 * 2 for count_E in balance.counts().values())


def test_a_mask_does_not_outlive_its_forward() -> None:
    trained = model()
    balance = attach(trained)
    trained(tokens(), attention_mask=torch.zeros(4, 16))
    trained(tokens())
    balance.step()
    assert all(count_E.sum() == 64 * 2 for count_E in balance.counts().values())


@pytest.mark.parametrize("by", ["position", "keyword"])
def test_padding_that_routers_are_told_of_does_not_count(by: str) -> None:
    """As Megatron's, which get it as an argument and true where there is padding."""

    class Told(models.SoftmaxRouter):
        def forward(self, hidden_TD: Tensor, padding_mask: Tensor | None = None) -> Any:
            return super().forward(hidden_TD)

    class Tells(models.Experts):
        def forward(self, hidden_BSD: Tensor) -> Tensor:
            padding_T = torch.arange(hidden_BSD[..., 0].numel()) % 4 == 1
            hidden_TD = hidden_BSD.flatten(0, 1)
            if by == "position":
                weight_TK, _ = self.gate(hidden_TD, padding_T)
            else:
                weight_TK, _ = self.gate(hidden_TD, padding_mask=padding_T)
            return hidden_BSD * weight_TK.sum()

    trained = models.Model([models.Layer(Tells(Told(), 8))])
    balance = attach(trained)
    expert_TK = _chosen_of_one(trained)
    balance.step()
    valid_T = torch.arange(64) % 4 != 1
    expected = expert_TK[valid_T].flatten().bincount(minlength=8)
    assert torch.equal(balance.counts()["layers.0.mlp.gate"], expected)


def _chosen_of_one(trained: models.Model) -> Tensor:
    trained(tokens())
    [router] = models.routers_of(trained).values()
    expert_TK: Tensor = router.chosen.pop()
    return expert_TK
