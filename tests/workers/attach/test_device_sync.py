"""No step of an attached model makes the program wait for a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.workers.attach.models import model, tokens
from tests.workers.attach.sessions import BIAS_RULES, attach, sgd


class SyncWatch(TorchDispatchMode):
    """Notes operations for which a GPU would have to be waited for."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "bincount", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITS or (name == "index" and args[1][0].dtype == torch.bool):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("rule", ["none", *BIAS_RULES])
@pytest.mark.parametrize("own_bias", [False, True], ids=["added", "own"])
def test_no_step_waits_for_the_device(rule: str, own_bias: bool) -> None:
    trained = model(own_bias=own_bias)
    balance, optimizer = attach(trained, rule), sgd(trained)
    balance.watch(optimizer)
    with SyncWatch() as watch:
        trained(tokens(), attention_mask=torch.ones(4, 16)).logsumexp(dim=-1).mean().backward()
        optimizer.step()
    assert balance.steps == 1
    assert watch.seen == []
