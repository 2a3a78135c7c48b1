"""Which forwards count, and which of their tokens: situations that others' training code makes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    set_checkpoint_early_stop,
)

import evenload
from evenload.workers.attach import Balance
from tests.workers.attach.models import PROBE, WIDTH, Model, model, moe_layer, tokens

PER_STEP = 2 * tokens().numel()


def attach(attached: nn.Module, **options: Any) -> Balance:
    balance: Balance = evenload.attach(
        attached, "self_tuned", **{"probe": PROBE, "added_bias": "keep", **options}
    )
    return balance


def counted(balance: Balance) -> set[int]:
    return {int(count_E.sum()) for count_E in balance.counts().values()}


def _keep_products(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    is_product = operation is torch.ops.aten.mm.default
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE


class Recomputing(Model):
    """Checkpoints every layer in training, and all together again if `nested`."""

    def __init__(self, *, nested: bool = False, **options: Any) -> None:
        torch.manual_seed(0)
        super().__init__([moe_layer() for _ in range(2)])
        self.nested, self.options = nested, options

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden_BSD = self.embed(input_ids)
        if not self.training:
            return self.head(self.layers[1](self.layers[0](hidden_BSD)))
        if not hidden_BSD.requires_grad:
            hidden_BSD.requires_grad_()  # as reentrant checkpoints want it above frozen layers
        if self.nested:
            return self.head(checkpoint(self.body, hidden_BSD, use_reentrant=False))
        return self.head(self.body(hidden_BSD))

    def body(self, hidden_BSD: Tensor) -> Tensor:
        for layer in self.layers:
            hidden_BSD = checkpoint(layer, hidden_BSD, **{"use_reentrant": False} | self.options)
        return hidden_BSD


KINDS: dict[str, Callable[[], Recomputing]] = {
    "selective": lambda: Recomputing(
        context_fn=partial(create_selective_checkpoint_contexts, _keep_products)
    ),
    "nested": lambda: Recomputing(nested=True),
    "reentrant": lambda: Recomputing(use_reentrant=True),
}


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen bottom"])
@pytest.mark.parametrize("early_stop", [True, False], ids=["", "to the end"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_recomputation_counts_once(kind: str, early_stop: bool, frozen: bool) -> None:
    trained = KINDS[kind]()
    balance = attach(trained)
    if frozen:
        trained.embed.requires_grad_(False)
        trained.layers[0].requires_grad_(False).eval()
    with set_checkpoint_early_stop(early_stop):
        trained.loss(tokens()).backward()
    balance.step()
    assert counted(balance) == {PER_STEP}


def test_two_forwards_of_a_sharpness_aware_step_count_both_and_move_once() -> None:
    """Gradients at a place nearby: forward, backward, move there, forward, backward, step."""
    trained = model()
    balance = attach(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    balance.watch(optimizer)
    for _ in range(2):
        trained.loss(tokens()).backward()
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.05 * parameter.grad)  # type: ignore[arg-type]
    optimizer.step()
    assert balance.steps == 1
    assert counted(balance) == {2 * PER_STEP}


def test_old_probabilities_without_gradients_in_training_mode_do_not_count() -> None:
    trained = model()
    balance = attach(trained)
    with torch.inference_mode():
        trained(tokens())
    trained(tokens())
    with torch.no_grad():
        trained(tokens())
    balance.step()
    assert counted(balance) == {PER_STEP}


class Lengthening(nn.Module):
    """Puts tokens of its own before the others, as prompt tuning does."""

    ADDED = 3

    def __init__(self, inner: Model) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        first_BS = input_ids[:, : self.ADDED]
        if attention_mask is not None:
            attention_mask = torch.cat([torch.ones_like(first_BS), attention_mask], dim=1)
        return self.inner(torch.cat([first_BS, input_ids], dim=1), attention_mask)


def test_the_innermost_mask_holds() -> None:
    trained = Lengthening(model())
    balance = attach(trained)
    mask_BS = torch.ones_like(tokens())
    mask_BS[0, :5] = 0
    trained(tokens(), attention_mask=mask_BS)
    balance.step()
    assert counted(balance) == {PER_STEP + 2 * (4 * Lengthening.ADDED - 5)}


class Head(nn.Module):
    """Around a base model, as causal language models are."""

    def __init__(self, base: Model) -> None:
        super().__init__()
        self.base = base

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.base(input_ids, attention_mask)


@pytest.mark.parametrize("way", ["base alone", "forward replaced"])
def test_a_mask_that_only_the_base_model_gets_holds(way: str) -> None:
    """TRL replaces `forward` of the outer object, and calls the base model itself."""
    trained = Head(model())
    balance = attach(trained)
    mask_BS = torch.ones_like(tokens())
    mask_BS[1:, 10:] = 0
    if way == "base alone":
        trained.base(tokens(), attention_mask=mask_BS)
    else:
        trained.forward = lambda batch: trained.base(*batch)  # type: ignore[method-assign, assignment]
        trained((tokens(), mask_BS))
    balance.step()
    assert counted(balance) == {PER_STEP - 2 * 3 * 6}


def test_of_a_four_dimensional_mask_everything_counts() -> None:
    trained = model()
    balance = attach(trained)
    trained(tokens(), attention_mask=torch.zeros(4, 1, 16, 16))
    balance.step()
    assert counted(balance) == {PER_STEP}


def test_a_forward_of_a_single_layer_counts_by_itself() -> None:
    """As stages of a pipeline call their layers, without the model around them."""
    trained = model()
    balance = attach(trained)
    trained.layers[1](torch.randn(4, 16, WIDTH))
    balance.step()
    assert [int(count_E.sum()) for count_E in balance.counts().values()] == [0, PER_STEP]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_forward_that_somebody_replaces_on_a_router(when: str) -> None:
    """As accelerate does to move weights; attach must come first, and says so."""
    trained = model()
    gate: Any = trained.layers[0].mlp.gate  # type: ignore[union-attr]

    def replace() -> None:
        old = gate.forward
        gate.forward = lambda *args: old(*args)

    if when == "after":
        balance = attach(trained)
        replace()
    else:
        replace()
        with pytest.warns(UserWarning, match=r"layers\.0\.mlp\.gate.*forward that was replaced"):
            balance = attach(trained)
    trained(tokens())
    balance.step()
    assert counted(balance) == {PER_STEP}
    assert len(balance.layers) == (2 if when == "after" else 1)
