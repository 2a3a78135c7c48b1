"""Puts the selection bias into a router that has none, and sees what every router selects.

While a router's forward runs, its `topk` over all experts is answered with the top-k of score +
bias as indices, and the unbiased scores at these indices as values. So gate weights never hold the
bias, and neither the router's code nor its outputs need to be known.

Letters: T tokens, E experts, K top-k.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from evenload.workers.attach.bias import ADDED, swap, unswap
from evenload.workers.attach.passes import NO_FULLGRAPH, Passes
from evenload.workers.attach.routers import TOPK

_RECORD = "_evenload"  # in the router's __dict__: its Interceptor

Forward = Callable[..., Any]
Judge = Callable[[nn.Module, Forward, Any, Any], Any]


class Selection(TorchFunctionMode):
    """Active inside one router's forward; with a bias it selects, without one it only looks."""

    def __init__(
        self,
        num_experts: int,
        top_k: int,
        bias_E: Tensor | None = None,
        adjust: Callable[[Tensor, Tensor], Tensor] = torch.add,
    ) -> None:
        super().__init__()
        self._num_experts, self._top_k, self._bias_E = num_experts, top_k, bias_E
        self._adjust = adjust  # (score_TE, bias_E) -> the score that selects
        # float32, as the top-k got it, groups unmasked; with gradient
        self.score_TE: Tensor | None = None
        self.expert_TK: Tensor | None = None
        self._stages: list[Tensor] = []  # what was chosen from before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in TOPK:
            return func(*args, **kwargs)
        return self._top(func, *args, **kwargs)

    def _top(self, func: Forward, input: Tensor, k: int, *args: Any, **kwargs: Any) -> Any:
        if input.shape[-1] != self._num_experts or k != self._top_k:
            self._stages.append(input)
            return func(input, k, *args, **kwargs)
        if self._bias_E is None:
            chosen = func(input, k, *args, **kwargs)
        else:
            # In float32: the bias moves by less than bfloat16 can tell apart.
            adjusted = self._adjust(input.detach().float(), self._bias_E)
            expert = func(adjusted, k, *args, **kwargs).indices
            chosen = torch.return_types.topk((input.gather(-1, expert), expert))
        # The last one counts: group-limited routers choose groups first.
        self.expert_TK = chosen[1].detach().flatten(0, -2)
        self.score_TE = self._whole(input).reshape(-1, self._num_experts).float()
        return chosen

    def _whole(self, score: Tensor) -> Tensor:
        """The scores before losing groups were masked: an expert of one is near, not infinitely
        far. Top 4 of 16 in 2 of 4 groups: self_tuned ends at a MaxVio of .10, with masks at 2.2.
        """
        by_groups = [stage for stage in self._stages if stage.numel() == score.numel()]
        return by_groups[0] if by_groups else score


# Output, selection, and which tokens the router was told are padding, as Megatron's are.
Seen = Callable[[Any, Selection, Tensor | None], None]
PADDING = "padding_mask"


class Interceptor:
    """What the forward of one router goes through.

    Args:     passes: says which forwards count; None in a copy, which counts for nobody
    """

    def __init__(self, num_experts: int, top_k: int, passes: Passes | None) -> None:
        self.num_experts, self.top_k, self.passes = num_experts, top_k, passes
        self.seen: Seen | None = None  # gets what every forward that counts gave and selected
        self.judge: Judge | None = None  # takes over during the proof
        self._padding: int | None = None  # where that argument stands, once it is known

    def __deepcopy__(self, memo: dict[int, Any]) -> "Interceptor":
        return Interceptor(self.num_experts, self.top_k, None)

    def route(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
        if self.judge is not None:
            return self.judge(module, forward, args, kwargs)
        if self.passes is None or self.passes.is_inside:
            return self._through(module, forward, args, kwargs)
        self.passes.enter(module, args, kwargs)
        output = self._through(module, forward, args, kwargs)
        self.passes.leave(module)
        return output

    def _through(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
        bias_E = module._buffers.get(ADDED)
        counting = self.passes is not None and self.passes.is_counting
        if bias_E is None and not counting:
            return forward(*args, **kwargs)
        with Selection(self.num_experts, self.top_k, bias_E) as selection:
            output = forward(*args, **kwargs)
        if counting and self.seen is not None:
            self.seen(output, selection, self._padding_of(forward, args, kwargs))
        return output

    def _padding_of(self, forward: Forward, args: Any, kwargs: Any) -> Tensor | None:
        if self._padding is None:
            names = list(inspect.signature(forward).parameters)
            self._padding = names.index(PADDING) if PADDING in names else len(names)
        at_place = args[self._padding] if self._padding < len(args) else None
        value = kwargs.get(PADDING, at_place)
        return value if isinstance(value, Tensor) else None


def _routed(cls: Any) -> type[nn.Module]:
    """A class of routers. `torch.compiler.disable` imports for a second, so not at import."""

    class Routed(cls):  # type: ignore[misc]
        @torch.compiler.disable(reason=NO_FULLGRAPH)  # type: ignore[untyped-decorator]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return self.__dict__[_RECORD].route(self, super().forward, args, kwargs)

    return Routed


def intercept(module: nn.Module, interceptor: Interceptor) -> None:
    module.__dict__[_RECORD] = interceptor
    swap(module, _routed)


def redirect(module: nn.Module, interceptor: Interceptor) -> None:
    """From now on, an intercepted module goes through another interceptor."""
    module.__dict__[_RECORD] = interceptor


def release(module: nn.Module) -> None:
    """Takes back `intercept`, which must be the latest change of the module's class."""
    del module.__dict__[_RECORD]
    unswap(module)
