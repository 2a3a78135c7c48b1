"""Finds the routers of a model by watching one probe batch, without a list of model types.

A router is a module whose forward calls `topk` itself, not through a child, on scores of a fixed
width: the experts. Modules that choose otherwise but return their choice can be recorded.

Letters: B sequences, S tokens of a sequence, T tokens, E experts, K top-k.
"""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.overrides import TorchFunctionMode

from evenload.workers.attach.errors import AttachError

PROBE_SHAPE = (2, 19)  # B, S; a prime that is no number of experts
TOPK = (torch.topk, torch.Tensor.topk)
UNITS = {"softmax": "probability", "sigmoid": "probability", "softplus": "sqrt-softplus"}
LOGIT = "logit"  # no such function before the top-k


class Router(NamedTuple):
    """A module that routes, as the probe batch showed it."""

    name: str
    module: nn.Module
    num_experts: int  # width of the scores, experts without computation included
    real_experts: int  # those that compute
    top_k: int
    unit: str  # of the scores that select
    stages: tuple[int, ...]  # widths of further top-k calls: groups are chosen first
    selections: int  # top-k calls over all experts in one forward
    output: int | None = None  # no top-k: where in the forward's output the choice is


class _TopK(NamedTuple):
    width: int
    k: int
    unit: str
    dims: int


class _Call:
    """A module's forward that is running."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.unit = ""  # nothing yet
        self.top_k: list[_TopK] = []
        self.returned: tuple[int, _TopK] | None = None


class _Trace(TorchFunctionMode):
    """Which module calls `topk` on what, while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[_Call] = []
        self.closed: dict[nn.Module, _Call] = {}  # in the order of their ends

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.open:
            call = self.open[-1]
            call.unit = UNITS.get(getattr(func, "__name__", ""), call.unit)
            if func in TOPK and isinstance(args[0], Tensor) and args[0].is_floating_point():
                width, chosen = args[0].shape[-1], result[1]
                unit = call.unit or LOGIT
                call.top_k.append(_TopK(width, chosen.shape[-1], unit, args[0].dim()))
        return result

    def enter(self, module: nn.Module, args: Any) -> None:
        self.open.append(_Call(module))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.open.pop()
        assert call.module is module
        if self.open:
            self.open[-1].unit = call.unit or self.open[-1].unit
        call.returned = None if call.top_k else _returned_choice(output)
        self.closed.setdefault(module, call)

    @contextmanager
    def following(self) -> Iterator[None]:
        handles = [
            global_hooks.register_module_forward_pre_hook(self.enter),
            global_hooks.register_module_forward_hook(self.leave),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()


def _returned_choice(output: Any) -> tuple[int, _TopK] | None:
    """Where a tuple of flat tensors holds experts (T, K) beside scores (T, E)."""
    if not isinstance(output, tuple):
        return None
    flat = [value.dim() == 2 for value in output if isinstance(value, Tensor)]
    if len(flat) != len(output) or not all(flat):
        return None
    for place, expert_TK in enumerate(output):
        if expert_TK.dtype != torch.int64 or not expert_TK.numel():
            continue
        for score_TE in output:
            fits = len(score_TE) == len(expert_TK) and score_TE.shape[1] > int(expert_TK.max())
            if score_TE.is_floating_point() and fits and score_TE.shape[1] > expert_TK.shape[1]:
                width, k = score_TE.shape[1], expert_TK.shape[1]
                return place, _TopK(width, k, LOGIT, 2)
    return None


def find_routers(
    model: nn.Module, probe: "Probe", only: Collection[nn.Module] | None = None
) -> list[Router]:
    """The routers that the probe batch reaches, in the order of their forwards.

    Args:     only: consider these modules alone
    Raises:   AttachError: none found
    """
    trace = _Trace()
    with trace.following():
        probe.run(model)
    names = {module: name for name, module in model.named_modules()}
    parents = {child: parent for parent in names for child in parent.children()}
    found: list[Router] = []
    for module, call in trace.closed.items():
        if not {router.module for router in found}.isdisjoint(module.modules()):
            continue  # around a router, a loss chooses once more, as transformers' auxiliary loss
        place, last = call.returned or (None, None)
        calls = [each for each in call.top_k if each.width not in probe.lengths]
        if last is not None:
            calls = [last]
        if calls and _has_width(module, parents.get(module), calls[-1].width):
            router = _router(names[module], module, parents.get(module), calls)
            found.append(router._replace(output=place))
    if only is not None:
        found = [router for router in found if router.module in set(only)]
    if not found:
        raise AttachError(
            f"{type(model).__name__} has no router that the probe batch reached: no module calls "
            f"topk over a fixed number of experts (sequence lengths {sorted(probe.lengths)} of the "
            "batch are not taken for one); pass probe= with a batch that runs through the experts, "
            "and attach before FSDP of torch flattens the weights"
        )
    return found


def _has_width(module: nn.Module, parent: nn.Module | None, width: int) -> bool:
    """Whether a weight of the module, or of the block that holds it, has one row per expert."""
    own = [*module.parameters(), *module.buffers()]
    if parent is not None:
        own += [*parent.parameters(recurse=False), *parent.buffers(recurse=False)]
    return any(width in tensor.shape for tensor in own)


def _router(
    name: str, module: nn.Module, parent: nn.Module | None, calls: Sequence[_TopK]
) -> Router:
    last = calls[-1]
    alike = [call for call in calls if call[:2] == last[:2] and call.dims == last.dims]
    return Router(
        name=name,
        module=module,
        num_experts=last.width,
        real_experts=last.width - _idle_classes(module, parent, last.width),
        top_k=last.k,
        unit=last.unit,
        stages=tuple(call.width for call in calls if call.width not in (1, last.width)),
        selections=len(alike),
    )


def _idle_classes(module: nn.Module, parent: nn.Module | None, width: int) -> int:
    """Classes at the end that compute nothing: LongCat's zero experts, Zaya's skip expert."""
    places = [module] if parent is None else [module, parent, *parent.children()]
    for place in places:
        zero = getattr(place, "zero_expert_num", None)
        if isinstance(zero, int) and 0 < zero < width:
            return zero
        if getattr(place, "num_router_classes", None) == width:
            return width - int(place.num_experts)  # type: ignore[arg-type]
    return 0


def short_names(names: Sequence[str]) -> tuple[str, ...]:
    """The number of each layer where it tells the layers apart, else the whole names."""
    numbers = [next((part for part in name.split(".") if part.isdigit()), name) for name in names]
    return tuple(numbers) if len(set(numbers)) == len(names) else tuple(names)


class Probe(NamedTuple):
    """A small batch, and how to run it so that nothing of it stays behind."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    call: Callable[..., Any] | None = None  # (model, *args, **kwargs); None calls the model

    @property
    def lengths(self) -> set[int]:
        """Sequence lengths: the second dimension of every tensor of the batch."""
        values = [*self.args, *self.kwargs.values()]
        return {value.shape[1] for value in values if isinstance(value, Tensor) and value.dim() > 1}

    def run(self, model: nn.Module) -> None:
        """One forward in evaluation mode: modes, gradients and random state stay as they were."""
        with evaluating(model), torch.no_grad(), same_randomness(model), _uncompiled():
            try:
                if self.call is None:
                    model(*self.args, **self.kwargs)
                else:
                    self.call(model, *self.args, **self.kwargs)
            except AttachError:
                raise
            except Exception as error:
                raise AttachError(
                    f"the probe batch fails in {type(model).__name__}.forward: "
                    f"{type(error).__name__}: {error}; pass probe= with a batch that it takes"
                ) from error


def probe_of(model: nn.Module, batch: object = None) -> Probe:
    """The user's batch (a tensor, a tuple, or a mapping of keyword arguments), else token ids.

    Raises:   AttachError: no batch given, and the model does not say how many words it knows
    """
    if isinstance(batch, Mapping):
        return Probe((), dict(batch))
    if batch is not None:
        return Probe(tuple(batch) if isinstance(batch, (tuple, list)) else (batch,), {})
    config = getattr(model, "config", None)
    text = getattr(config, "get_text_config", lambda: config)()
    words = getattr(text, "vocab_size", None)
    if not isinstance(words, int):
        raise AttachError(
            f"{type(model).__name__} has no config.vocab_size to make a probe batch from; pass "
            "probe= with a batch: a tensor, a tuple of arguments or a dict of keyword arguments"
        )
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    token_BS = torch.randint(words, PROBE_SHAPE, generator=generator).to(device)
    return Probe((), {"input_ids": token_BS})


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def same_randomness(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Draws start from a fixed seed inside, and go on outside as if nothing had been drawn."""
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices=[device.index for device in devices]):
        torch.manual_seed(seed)
        yield


def _uncompiled() -> AbstractContextManager[Any]:
    """Compiled parts of the model run as they were written."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
