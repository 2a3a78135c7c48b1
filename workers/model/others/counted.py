"""What a model of another's code is: its expert layers, its weights, its FLOPs.

It is built on torch's meta device, whose tensors have shapes and no values, so a large model needs
no memory. Where its code needs values (a `nonzero`, a look at a token), it is built for real.

Letters: S tokens of a sequence, E experts.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.other_models import Built, OtherModel
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.proof import own_homes
from evenload.workers.attach.routers import PROBE_SHAPE, Probe, Router, find_routers, short_names
from evenload.workers.model.others.attached import AttachedModel, Call

LARGEST_REAL = 2 * 10**9  # weights of a model that is built for real to be counted


def probe_of(module: nn.Module, vocab_size: int, call: Call, length: int = PROBE_SHAPE[1]) -> Probe:
    """A batch of random tokens, and how to run the model on it."""
    generator = torch.Generator().manual_seed(0)
    token_BS = torch.randint(vocab_size, (PROBE_SHAPE[0], length), generator=generator)
    token_BS = token_BS.to(next(module.parameters(), token_BS).device)

    def checked_call(module: nn.Module, token_BS: Tensor) -> None:
        logits_BSV = call(module, token_BS)
        if logits_BSV.shape != (*token_BS.shape, vocab_size):
            raise ValueError(
                f"logits of the shape {tuple(logits_BSV.shape)} for {tuple(token_BS.shape)} token "
                f"ids and vocab_size={vocab_size}; make them agree"
            )

    return Probe((token_BS,), {}, checked_call)


def counted(
    build: Callable[[], nn.Module], vocab_size: int, call: Call, content: str, what: str
) -> Built:
    """What `build` gives.

    Args:     what: the key and value to blame in messages
    Raises:   SpecError: it is no mixture of experts, or none that a sweep can balance
    """
    weights = 0
    try:
        with torch.device("meta"):
            module = build()
        weights = sum(weight.numel() for weight in module.parameters())
        return _counted(module, vocab_size, call, content)
    except Exception as error:  # noqa: BLE001 - whatever the user's code does without values
        if isinstance(error, SpecError) and error.__cause__ is None:  # not its code's failure
            raise _blaming(what, error) from None
        if weights > LARGEST_REAL:
            raise SpecError(
                f"{what} has {weights / 1e9:.1f}e9 weights, too many to build it only to count "
                f"them, and without values it fails: {error}; give a smaller model"
            ) from None
    module = build()
    try:
        return _counted(module, vocab_size, call, content)
    except AttachError as error:
        raise _blaming(what, error) from None


def _blaming(what: str, error: SpecError) -> SpecError:
    """The error of attach with the key to blame, without advice that a sweep cannot follow."""
    if not isinstance(error, AttachError):
        return error
    return SpecError(f"{what}: {str(error).partition('; pass probe=')[0]}")


def _counted(module: nn.Module, vocab_size: int, call: Call, content: str) -> Built:
    routers = find_routers(module, probe_of(module, vocab_size, call))
    parents = {child: each for each in module.modules() for child in each.children()}
    bias = _same("bias", {_bias_of(router, parents.get(router.module)) for router in routers})
    num_experts = _same("number of experts", {router.num_experts for router in routers})
    top_k = _same("top-k", {router.top_k for router in routers})
    scores = _same("scores", {router.unit for router in routers})
    for router in routers:
        if router.real_experts < router.num_experts:
            raise AttachError(
                f"{router.name} has {router.num_experts - router.real_experts} experts without "
                "computation: sweeps balance all experts alike, evenload.attach can leave them out"
            )
    experts = {
        id(weight): weight.numel()
        for router in routers
        for weight in _expert_weights(router, parents.get(router.module))
    }
    module.requires_grad_(False)  # torch's counter fails at views of weights, as in dbrx
    short, long = PROBE_SHAPE[1], 2 * PROBE_SHAPE[1]
    low, high = (_flops_per_token(module, vocab_size, call, length) for length in (short, long))
    by_length = (high - low) / (long - short)
    return Built(
        layers=short_names([router.name for router in routers]),
        num_experts=num_experts,
        top_k=top_k,
        vocab_size=vocab_size,
        scores=scores,
        bias=bias,
        parameters=sum(weight.numel() for weight in module.parameters()),
        expert_parameters=sum(experts.values()),
        flops=(max(0.0, low - by_length * short), max(0.0, by_length)),
        content=content,
    )


def _same(what: str, values: set[Any]) -> Any:
    if len(values) > 1:
        raise AttachError(
            f"its layers differ in their {what}: {', '.join(map(str, sorted(values)))}; a sweep "
            "needs equal ones, evenload.attach does not"
        )
    return next(iter(values))


def _bias_of(router: Router, parent: nn.Module | None) -> Literal["own", "added", "none"]:
    if router.output is not None:
        raise AttachError(f"{router.name} makes no top-k call for a bias to change")
    if any(True for _ in own_homes(router, parent)):
        return "own"
    return "none" if router.stages or router.selections > 1 else "added"


def _expert_weights(router: Router, parent: nn.Module | None) -> Iterator[Tensor]:
    """Weights of the routed experts: stacked, one below the other, or in a list of E modules."""
    if parent is None:
        return
    experts = router.num_experts
    for module in parent.modules():
        weights = list(module.parameters(recurse=False))
        if isinstance(module, nn.ModuleList) and len(module) == experts:
            yield from module.parameters()
        elif any(weight.dim() >= 3 and len(weight) == experts for weight in weights):
            yield from (weight for weight in weights if len(weight) == experts)
        elif "expert" in type(module).__name__.lower():
            yield from (w for w in weights if len(w) > experts and len(w) % experts == 0)


def _flops_per_token(module: nn.Module, vocab_size: int, call: Call, length: int) -> float:
    probe = probe_of(module, vocab_size, call, length)
    with FlopCounterMode(display=False) as counter:
        probe.run(module)
    return float(counter.get_total_flops()) / (PROBE_SHAPE[0] * length)


def behind_contract(module: nn.Module, spec: TrialSpec, call: Call) -> AttachedModel:
    """The module that a trial trains.  Raises: SpecError: a router passes no proof"""
    assert isinstance(spec.model, OtherModel)
    module.train().to(spec.runtime.device)
    probe = probe_of(module, spec.model.vocab_size, call)
    return AttachedModel(module, probe, call, takes_bias=spec.model.found.bias != "none")


def check_content(model: OtherModel, content: str, what: str) -> None:
    """Raises: SpecError: the model is no longer what it was when the trial was planned"""
    if content != model.found.content:
        raise SpecError(
            f"{what} has changed since the trial was planned; restore it, or start the sweep anew"
        )
