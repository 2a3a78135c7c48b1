"""Where the bias of a router is kept: the model's own tensor, or a buffer that attach adds.

Either way it is a float32 buffer while attached. The class of its owner is swapped for a subclass
of the same name that keeps the dtype through `.bfloat16()`, `.to()` and loading. A parameter is
held as a buffer meanwhile: FSDP2 would shard it, and an optimizer could be given it.

Letters: E experts.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

log = logging.getLogger("evenload.attach")

ADDED = "evenload_bias"
Kind = Literal["own", "added", "recorded"]  # whose the bias is; recorded: there is none
# Step sizes with which other projects move the same bias: torchtitan's layer, Megatron's config.
THEIR_STEP_SIZES = ("load_balance_coeff", "moe_router_bias_update_rate")
_KEPT = "_evenload_kept"  # in the owner's __dict__: the bias' name


class Home(NamedTuple):
    """The tensor that holds a router's bias."""

    owner: nn.Module
    name: str

    @property
    def is_added(self) -> bool:
        return self.name == ADDED

    @property
    def tensor(self) -> Tensor:
        """Looked up at every use: `load_state_dict(assign=True)` puts another object there."""
        value = self.owner._buffers.get(self.name)
        return cast(Tensor, self.owner._parameters[self.name] if value is None else value)

    @property
    def bias_E(self) -> Tensor:
        return self.tensor.detach().view(-1)


class Housed(NamedTuple):
    """A home as it is while attached, and the tensor to put back."""

    home: Home
    original: Tensor | None  # None: there was none

    def leave(self) -> None:
        """Puts the original tensor back, with the values of now."""
        owner, name = self.home
        bias = owner._buffers.pop(name)
        del owner.__dict__[_KEPT]
        unswap(owner)
        if self.original is None:
            return
        assert bias is not None
        with torch.no_grad():
            self.original.data = bias.to(self.original.dtype)
        kind = "_parameters" if isinstance(self.original, nn.Parameter) else "_buffers"
        getattr(owner, kind)[name] = self.original


def house(home: Home, num_experts: int) -> Housed:
    """Makes the bias a float32 buffer that stays one."""
    owner, name = home
    if home.is_added:
        original = None
        device = next(owner.parameters()).device
        value = torch.zeros(num_experts, device=device)
    else:
        original = home.tensor
        value = original.detach().to(torch.float32, copy=True)
        owner._parameters.pop(name, None)
    owner.register_buffer(name, value)
    owner.__dict__[_KEPT] = name
    swap(owner, keeps_bias)
    return Housed(home, original)


class Stopped(NamedTuple):
    """Another project's balancing of the same bias. While attached its step size is 0."""

    place: Any
    name: str
    step_size: float

    def go_on(self) -> None:
        setattr(self.place, self.name, self.step_size)


def stop_others(home: Home) -> Iterator[Stopped]:
    """A step size of 0 and not None: a hook that is registered already takes no None."""
    for place in (home.owner, getattr(home.owner, "config", None)):
        for name in THEIR_STEP_SIZES:
            step_size = getattr(place, name, None)
            if isinstance(step_size, float) and step_size > 0:
                log.info("%s of %s is 0 while attached", name, type(place).__name__)
                setattr(place, name, 0.0)
                yield Stopped(place, name, step_size)


@contextmanager
def borrowed(home: Home, value_E: Tensor) -> Iterator[None]:
    """The bias is `value_E` inside and what it was outside."""
    tensor = home.tensor.detach()
    before = tensor.clone()
    tensor.copy_(value_E.view_as(tensor))
    try:
        yield
    finally:
        tensor.copy_(before)


def keeps_bias(cls: Any) -> type[nn.Module]:
    """A class of owners: their bias stays float32, whatever happens to the model."""

    class KeepsBias(cls):  # type: ignore[misc]
        def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
            name = self.__dict__[_KEPT]
            kept = self._buffers[name]
            super()._apply(fn, *args, **kwargs)
            moved = self._buffers[name]
            if moved is not kept:
                # `to_empty` leaves garbage; what comes from nowhere starts at 0.
                value = torch.zeros_like(moved, dtype=torch.float32) if kept.is_meta else kept
                self._buffers[name] = value.to(moved.device)
            return self

        def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
            super()._load_from_state_dict(*args, **kwargs)
            name = self.__dict__[_KEPT]
            self._buffers[name] = self._buffers[name].detach().to(torch.float32)

    return KeepsBias


Subclass = Callable[[Any], type[nn.Module]]


def swap(module: nn.Module, subclass: Subclass) -> None:
    """Gives the module a subclass of its class, under the same name.

    The class is its only base. With a mixin before it, Python refuses the assignment where the
    class inherits from ABC first, as Megatron's routers do.
    """
    cls: Any = type(module)
    module.__class__ = _derived(subclass, cls)


@cache
def _derived(subclass: Subclass, cls: Any) -> type[nn.Module]:
    derived = subclass(cls)
    derived.__name__, derived.__qualname__ = cls.__name__, cls.__qualname__
    derived.__module__, derived._evenload_base = cls.__module__, cls  # type: ignore[attr-defined]
    return derived


def unswap(module: nn.Module) -> None:
    """Takes the last subclass off again, also from below a class that others put on top (FSDP2)."""
    module.__class__ = _restored(type(module))


def _restored(cls: type) -> type:
    if "_evenload_base" in cls.__dict__:
        return cls.__dict__["_evenload_base"]
    bases = tuple(_restored(base) for base in cls.__bases__)
    if bases == cls.__bases__:
        return cls
    own = {name: value for name, value in cls.__dict__.items() if name not in _PER_CLASS}
    return type(cls.__name__, bases, own)


_PER_CLASS = ("__dict__", "__weakref__")


def is_swapped(module: nn.Module) -> bool:
    return any("_evenload_base" in cls.__dict__ for cls in type(module).__mro__)
