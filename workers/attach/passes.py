"""Which forwards count, and which of their tokens.

A forward counts iff gradients are on and `training` is true where its outermost module is entered,
and no backward pass is running. Evaluation, generation and reference passes are left out by that,
a recomputation is not counted twice, and frozen layers in evaluation mode inside a model that
trains count.

Letters: B sequences, S tokens of a sequence, T tokens.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenload.workers.attach.errors import AttachError

NO_FULLGRAPH = (
    "evenload counts what routers select outside of the graph: compile with fullgraph=False, or "
    "detach() first"
)

_INPUTS = ("input_ids", "inputs_embeds", "hidden_states")


class _Frame(NamedTuple):
    """A module whose forward is running, and the mask that holds inside."""

    module: nn.Module
    mask: Tensor | None  # as it was given
    valid_BS: Tensor | None  # bool


class Watched(NamedTuple):
    """What is to be known of a module before its forward is entered."""

    inside: frozenset[nn.Module]  # the modules below it
    places: dict[str, int]  # where arguments stand that are given by position

    @staticmethod
    def of(module: nn.Module) -> "Watched":
        below = frozenset(module.modules()) - {module}
        names = list(inspect.signature(module.forward).parameters)
        wanted = ("attention_mask", *_INPUTS)
        return Watched(below, {name: names.index(name) for name in wanted if name in names})

    def argument(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in kwargs:
            return kwargs[name]
        place = self.places.get(name, len(args))
        return args[place] if place < len(args) else None


def backward_is_running() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


class Passes:
    """Follows the forwards of a model.

    Args:
        begin:  called where an outermost forward that counts begins
        commit: called where it has ended well; after an exception it never is
    """

    def __init__(self, begin: Callable[[], None], commit: Callable[[], None]) -> None:
        self._begin, self._commit = begin, commit
        self._watched: dict[nn.Module, Watched] = {}
        self._handles: list[Any] = []
        self._frames: list[_Frame] = []
        self._counted = False
        self._warned = False

    def follow(self, modules: Iterable[nn.Module], routers: Iterable[nn.Module]) -> None:
        """Hooks the modules; routers announce themselves."""
        for module in modules:
            self._watched[module] = Watched.of(module)
            self._handles += [
                module.register_forward_pre_hook(Hook(self.enter), with_kwargs=True, prepend=True),
                module.register_forward_hook(Hook(self.leave), with_kwargs=True),
            ]
        for router in routers:
            self._watched.setdefault(router, Watched(frozenset(router.modules()) - {router}, {}))

    def close(self) -> None:
        for handle in self._handles:
            handle.remove()

    def reset(self) -> None:
        """Forgets forwards that never ended, because of an exception."""
        self._frames.clear()

    @property
    def is_inside(self) -> bool:
        """Whether a forward is running that routers belong to."""
        return bool(self._frames) or backward_is_running()

    @property
    def is_counting(self) -> bool:
        return bool(self._frames) and self._counted and not backward_is_running()

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if backward_is_running():
            return
        # What does not hold this module was left by an exception.
        while self._frames and module not in self._watched[self._frames[-1].module].inside:
            self._frames.pop()
        if not self._frames:
            self._counted = torch.is_grad_enabled() and module.training
            if self._counted:
                self._begin()
        self._frames.append(self._frame(module, args, kwargs))

    def leave(self, module: nn.Module, *_: Any) -> None:
        if backward_is_running() or all(frame.module is not module for frame in self._frames):
            return
        while self._frames.pop().module is not module:
            pass
        if not self._frames and self._counted:
            self._commit()

    def _frame(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Frame:
        outer = self._frames[-1] if self._frames else _Frame(module, None, None)
        watched = self._watched.get(module)
        if watched is None:
            raise AttachError(
                f"{type(module).__name__} runs in a shallow copy of the attached model, such as "
                "nn.DataParallel makes for its threads: use DistributedDataParallel"
            )
        mask = watched.argument("attention_mask", args, kwargs)
        if not isinstance(mask, Tensor) or mask.dim() != 2 or mask is outer.mask:
            return _Frame(module, outer.mask, outer.valid_BS)
        inputs = (watched.argument(name, args, kwargs) for name in _INPUTS)
        length = next((value.shape[1] for value in inputs if isinstance(value, Tensor)), None)
        # A mask longer than the input covers a cached prefix first.
        return _Frame(module, mask, (mask > 0)[:, -length:] if length else mask > 0)

    def valid(self, num_tokens: int, name: str) -> Tensor | None:
        """Bool (T,): which tokens are no padding; None is all. Says once if a mask cannot tell."""
        valid_BS = self._frames[-1].valid_BS
        if valid_BS is None or valid_BS.numel() == num_tokens:
            return None if valid_BS is None else valid_BS.flatten()
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{name} routes {num_tokens} tokens, but attention_mask has the shape "
                f"{tuple(valid_BS.shape)}: padding is counted there; pass a mask that fits",
                stacklevel=2,
            )
        return None


class Hook:
    """A hook that a copy of the model does not inherit: the copy belongs to nobody."""

    def __init__(self, call: Callable[..., None] | None) -> None:
        self.call = None if call is None else torch.compiler.disable(call, reason=NO_FULLGRAPH)

    def __call__(self, *args: Any) -> None:
        if self.call is not None:
            self.call(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hook":
        return Hook(None)
