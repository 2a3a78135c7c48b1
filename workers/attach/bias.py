"""Where the bias of a router is kept: the model's own tensor, or a buffer that attach adds.

Either way it is a float32 buffer while attached. The class of its owner is swapped for a subclass
of the same name that keeps the dtype through `.bfloat16()`, `.to()` and loading. A parameter is
held as a buffer meanwhile: FSDP2 would shard it, and an optimizer could be given it.

Letters: E experts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

ADDED = "evenload_bias"
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
    swap(owner, KeepsBias)
    return Housed(home, original)


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


class KeepsBias(nn.Module):
    """Part of an owner's class: its bias stays float32, whatever happens to the model."""

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        name = self.__dict__[_KEPT]
        kept = self._buffers[name]
        super()._apply(fn, *args, **kwargs)
        moved = self._buffers[name]
        assert kept is not None
        assert moved is not None
        if moved is not kept:
            # `to_empty` leaves garbage; what comes from nowhere starts at 0.
            value = torch.zeros_like(moved, dtype=torch.float32) if kept.is_meta else kept
            self._buffers[name] = value.to(moved.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        name = self.__dict__[_KEPT]
        loaded = self._buffers[name]
        assert loaded is not None
        self._buffers[name] = loaded.detach().to(torch.float32)


def swap(module: nn.Module, mixin: Any) -> None:
    """Puts the mixin's methods before those of the module's class, under the same name."""
    cls: Any = type(module)
    module.__class__ = _derived(mixin, cls)


@cache
def _derived(mixin: Any, cls: Any) -> type[nn.Module]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "_evenload_base": cls}
    return type(cls.__name__, (mixin, cls), names)


def unswap(module: nn.Module) -> None:
    """Takes the last mixin off again, also from below a class that others put on top (FSDP2)."""
    module.__class__ = _restored(type(module))


def _restored(cls: type) -> type:
    if "_evenload_base" in cls.__dict__:
        base: type = cls.__dict__["_evenload_base"]
        return base
    bases = tuple(_restored(base) for base in cls.__bases__)
    if bases == cls.__bases__:
        return cls
    own = {name: value for name, value in cls.__dict__.items() if name not in _PER_CLASS}
    return type(cls.__name__, bases, own)


_PER_CLASS = ("__dict__", "__weakref__")


def is_swapped(module: nn.Module) -> bool:
    return any("_evenload_base" in cls.__dict__ for cls in type(module).__mro__)
