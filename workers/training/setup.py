"""Builds the objects that train from a trial spec: model, optimizer, balancer and target."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import AdamW

from evenload.pipeline.spec.other_models import OtherModel
from evenload.pipeline.spec.trial import TrainSpec, TrialSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.model.kinds import build_model
from evenload.workers.training.compilation import check_compiler, compile_model
from evenload.workers.training.memory import keep_freed_memory
from evenload.workers.training.step import Trainee

NO_DECAY_NDIM = 1  # norms and other vectors have no weight decay


class Assembly(NamedTuple):
    trainee: Trainee
    state: Any  # initial balancer state
    device: torch.device


def assemble(spec: TrialSpec) -> Assembly:
    """Builds all objects of a trial and seeds torch, so that the same spec gives the same weights.

    Raises:   SpecError: the trial needs a compiler, and this machine has none
    """
    device = torch.device(spec.runtime.device)
    torch.set_num_threads(spec.runtime.threads)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(spec.train.seed)
    model = build_model(spec).to(device)
    balancer = make_balancer(spec.balancer, spec.model.top_k)
    is_fixed = isinstance(spec.model, OtherModel) and spec.model.freeze == "router"
    if is_fixed or not balancer.trains_router:
        model.freeze_routers()
    trainee = Trainee(
        model=model,
        optimizer=adamw(spec.train, trainable_weights(model)),
        balancer=balancer,
        target_E=target_share(spec, device),
        grad_clip=spec.train.grad_clip,
        autocast_dtype=torch.bfloat16 if spec.train.precision == "bfloat16" else None,
    )
    if spec.train.compile:
        check_compiler(spec)
        compile_model(model)
    state = balancer.init(spec.model.num_moe_layers, spec.model.num_experts, device)
    if (bias_LE := model.initial_bias()) is not None:
        state = state._replace(bias_LE=bias_LE.to(device))
    return Assembly(trainee, state, device)


def target_share(spec: TrialSpec, device: torch.device) -> torch.Tensor:
    """The wanted share of the load per expert, float32; sums to 1."""
    num_experts = spec.model.num_experts
    share = spec.balancer.target or (1 / num_experts,) * num_experts
    return torch.tensor(share, dtype=torch.float32, device=device)


def adamw(train: TrainSpec, named: Mapping[str, nn.Parameter], stacked: int = 0) -> AdamW:
    """The optimizer of these weights. Its groups keep their order.

    Args:     stacked: number of extra dimensions in front of each weight
    """
    decayed = [weight for weight in named.values() if weight.ndim - stacked > NO_DECAY_NDIM]
    plain = [weight for weight in named.values() if weight.ndim - stacked <= NO_DECAY_NDIM]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    betas, decay = (train.beta1, train.beta2), train.weight_decay
    return AdamW(groups, lr=train.learning_rate, betas=betas, weight_decay=decay, fused=True)


def trainable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable weights by name, in the order of the model."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
