from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.training.setup import adamw, assemble

MakeSpec = Callable[..., TrialSpec]


def test_matrices_decay_and_norms_do_not(make_spec: MakeSpec) -> None:
    """With gradients of zero a step of AdamW does nothing but decay."""
    spec = make_spec(train={"learning_rate": 0.01, "weight_decay": 0.5})
    trainee = assemble(spec).trainee
    before = {name: weight.clone() for name, weight in trainee.model.named_parameters()}
    for weight in trainee.model.parameters():
        weight.grad = torch.zeros_like(weight)
    trainee.optimizer.step()
    norms = [name for name in before if "norm" in name]
    assert len(norms) == 2 * spec.model.num_layers + 1
    for name, weight in trainee.model.named_parameters():
        kept = 1.0 if name in norms else 1 - 0.01 * 0.5
        torch.testing.assert_close(weight.data, kept * before[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("stacked", [0, 1])
def test_every_weight_is_in_one_group_by_its_own_dimensions(
    make_spec: MakeSpec, stacked: int
) -> None:
    front = (3,) * stacked
    named = {
        "matrix": torch.nn.Parameter(torch.ones(*front, 4, 4)),
        "experts": torch.nn.Parameter(torch.ones(*front, 2, 4, 4)),
        "norm": torch.nn.Parameter(torch.ones(*front, 4)),
    }
    decayed, plain = adamw(make_spec().train, named, stacked).param_groups
    assert [id(weight) for weight in decayed["params"]] == [
        id(named["matrix"]),
        id(named["experts"]),
    ]
    assert [id(weight) for weight in plain["params"]] == [id(named["norm"])]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (make_spec().train.weight_decay, 0)


def test_a_frozen_router_is_not_trained(make_spec: MakeSpec) -> None:
    trainee = assemble(make_spec(balancer={"kind": "frozen_router"})).trainee
    routers = [weight for name, weight in trainee.model.named_parameters() if "router" in name]
    assert len(routers) == 2
    trained = {id(weight) for group in trainee.optimizer.param_groups for weight in group["params"]}
    assert not trained & {id(weight) for weight in routers}
    assert len(trained) == len(list(trainee.model.parameters())) - 2
