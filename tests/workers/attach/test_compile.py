"""torch.compile around an attached model: right counts, or a refusal that names fullgraph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import evenload
from evenload.workers.attach import Balance
from tests.workers.attach.models import PROBE, Model, chosen, model, tokens

# What torch.compile does itself while it traces.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(trained: Model) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(trained, backend="aot_eager")
    return compiled


def by_layer(trained: Model) -> Callable[..., Tensor]:
    for layer in trained.layers:
        layer.compile(backend="aot_eager")
    return trained


def steps(run: Callable[..., Tensor], trained: Model, balance: Balance) -> Tensor:
    """Three steps of different lengths; counts are checked in each."""
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    balance.watch(optimizer)
    for step in range(3):
        token_BS = tokens(4, 16 + step, seed=step)
        mask_BS = torch.ones_like(token_BS)
        mask_BS[:, 14:] = 0
        optimizer.zero_grad()
        run(token_BS, attention_mask=mask_BS).logsumexp(dim=-1).mean().backward()
        optimizer.step()
        assert all(count_E.sum() == 4 * 14 * 2 for count_E in balance.counts().values())
    return torch.stack(list(balance.biases().values()))


@pytest.mark.parametrize(
    ("compiled", "checkpointing", "late"),
    [
        pytest.param(whole, "", False, marks=pytest.mark.slow),
        (whole, "non-reentrant", True),
        (by_layer, "non-reentrant", False),
    ],
    ids=["whole", "whole, before attaching, recomputed", "by layer, recomputed"],
)
def test_a_compiled_model_counts_and_moves_as_one_that_is_not(
    compiled: Callable[[Model], Callable[..., Tensor]], checkpointing: str, late: bool
) -> None:
    plain, fast = model(checkpointing=checkpointing), model(checkpointing=checkpointing)
    options: dict[str, Any] = {"probe": PROBE, "added_bias": "keep"}
    expected = steps(plain, plain, evenload.attach(plain, **options))
    if late:
        run = compiled(fast)
        run(tokens())
        balance = evenload.attach(fast, **options)
    else:
        balance = evenload.attach(fast, **options)
        run = compiled(fast)
    chosen(fast)
    torch.testing.assert_close(steps(run, fast, balance), expected, rtol=0, atol=1e-5)


def test_a_full_graph_is_refused_by_its_name() -> None:
    trained = model()
    evenload.attach(trained, probe=PROBE, added_bias="keep")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="fullgraph=False"):
        torch.compile(trained.layers[0], backend="eager", fullgraph=True)(torch.randn(2, 5, 16))
