"""What attach proves of every router on the probe batch, before it changes anything for good.

    looking changes nothing      outputs with the interception are those without, bit for bit
    the bias selects             a large bias brings every token to its expert, and outputs change
    the bias does not weight     a token whose experts stay has the same outputs under any bias

Letters: T tokens, E experts, K top-k.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenload.workers.attach.bias import ADDED, Home, borrowed
from evenload.workers.attach.interception import Forward, Selection
from evenload.workers.attach.routers import Router, same_randomness

PUSH = 100.0  # of the spread of the scores: brings every token to an expert, groups included
ROUNDING = 64  # units in the last place by which equal weights may differ


class Verdict(NamedTuple):
    """What can be done with a router."""

    home: Home | None  # where its bias is or would be
    reason: str  # why it cannot be balanced; empty where it can
    is_seen: bool = True  # what it chose can be counted


class _Run(NamedTuple):
    output: list[Tensor]
    expert_TK: Tensor  # sorted
    score_TE: Tensor


class Trial(NamedTuple):
    """One router with the input that the probe batch gave it."""

    router: Router
    parent: nn.Module | None
    forward: Forward  # what the router's class does
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def verdict(self, sharded: frozenset[Home]) -> Verdict:
        """The first home of a bias that passes every check; else why none does."""
        router = self.router
        if router.output is not None:
            return Verdict(None, "makes no top-k call for a bias to change")
        for home in own_homes(router, self.parent):
            if home in sharded:
                return Verdict(None, f"its {home.name} is sharded; attach before sharding")
            if not self._failure(home):
                return Verdict(home, "")
        if router.stages:
            stages = f"first among {router.stages[0]}, then among {router.num_experts}"
            reason = f"chooses {stages}: an added bias would bypass the first choice"
            return Verdict(None, reason, is_seen=self._returns_choice())
        if router.selections > 1:
            return Verdict(None, f"selects {router.selections} times in one forward", False)
        home = Home(router.module, ADDED)
        return Verdict(home, self._failure(home))

    def _failure(self, home: Home) -> str:
        """What does not hold, in evaluation or in training; empty if all does."""
        module = self.router.module
        for mode in (True, False):  # probes run in evaluation mode: end there
            module.train(mode)
            failure = self._failure_in_mode(home)
            module.eval()
            if failure:
                return failure
        return ""

    def _failure_in_mode(self, home: Home) -> str:
        start_E = torch.zeros(self.router.num_experts) if home.is_added else home.bias_E.clone()
        with same_randomness(self.router.module):
            plain = _tensors(self._call())
        now = self._run(home, start_E)
        if now is None:
            return f"makes no top-{self.router.top_k} call over {self.router.num_experts} experts"
        if not _equal(plain, now.output):
            return "its outputs change although the bias does not"
        expert = int(now.expert_TK.flatten().bincount(minlength=self.router.num_experts).argmin())
        score_TE = now.score_TE[now.score_TE.isfinite()]
        spread = float(score_TE.max() - score_TE.min()) + 1e-3
        return self._selects(home, now, _raised(start_E, expert, PUSH * spread), expert) or (
            self._weighs(home, now, _raised(start_E, expert, _halfway(now, expert)))
            or self._weighs(home, now, start_E + spread)
        )

    def _returns_choice(self) -> bool:
        """Whether the experts of the last top-k are what the router returns, not places in a list
        of candidates."""
        now = self._run(Home(self.router.module, ADDED), torch.zeros(self.router.num_experts))
        return now is not None and any(
            part.shape == now.expert_TK.shape
            and torch.equal(part.sort(dim=-1).values, now.expert_TK)
            for part in now.output
        )

    def _selects(self, home: Home, now: _Run, bias_E: Tensor, expert: int) -> str:
        pushed = self._run(home, bias_E)
        assert pushed is not None
        reached_T = (pushed.expert_TK == expert).any(dim=-1)
        if not reached_T.all():
            return (
                f"a large bias brings only {int(reached_T.sum())} of {len(reached_T)} tokens over"
            )
        if _equal(pushed.output, now.output):
            return "a large bias moves nothing: its choice does not reach the outputs"
        return ""

    def _weighs(self, home: Home, now: _Run, bias_E: Tensor) -> str:
        moved = self._run(home, bias_E)
        assert moved is not None
        kept_T = (moved.expert_TK == now.expert_TK).all(dim=-1)
        for before, after in zip(now.output, moved.output, strict=True):
            before_TN, after_TN = self._rows(before, len(kept_T)), self._rows(after, len(kept_T))
            if before_TN is None or after_TN is None:
                continue
            unit = torch.finfo(before_TN.dtype).eps * float(before_TN.abs().max())
            if not torch.allclose(
                before_TN[kept_T], after_TN[kept_T], rtol=0, atol=ROUNDING * unit, equal_nan=True
            ):
                return "its weights hold the bias: tokens that stay with their experts change"
        return ""

    def _rows(self, output: Tensor, num_tokens: int) -> Tensor | None:
        """Finite floats by token, those of its experts in the order of their size."""
        leading = output.shape[:1].numel(), output.shape[:2].numel()
        if not output.is_floating_point() or num_tokens not in leading:
            return None
        row_TN = output.reshape(num_tokens, -1).nan_to_num(posinf=0.0, neginf=0.0)
        return row_TN.sort(dim=-1).values if row_TN.shape[1] == self.router.top_k else row_TN

    def _run(self, home: Home, bias_E: Tensor) -> _Run | None:
        """The router under a bias; None if it did not select."""
        inputs = (*self.args, *self.kwargs.values())
        bias_E = bias_E.to(next(value.device for value in inputs if isinstance(value, Tensor)))
        width, top_k = self.router.num_experts, self.router.top_k
        selection = Selection(width, top_k, bias_E if home.is_added else None)
        lent = nullcontext() if home.is_added else borrowed(home, bias_E)
        with lent, same_randomness(self.router.module), selection:
            output = _tensors(self._call())
        if selection.expert_TK is None or selection.score_TE is None:
            return None
        return _Run(output, selection.expert_TK.sort(dim=-1).values, selection.score_TE)

    def _call(self) -> Any:
        """On a copy of the input, which some routers change in place; not of a bias passed in."""

        def fresh(value: Any) -> Any:
            is_input = isinstance(value, Tensor) and value.numel() != self.router.num_experts
            return value.clone() if is_input else value

        kwargs = {name: fresh(value) for name, value in self.kwargs.items()}
        return self.forward(*map(fresh, self.args), **kwargs)


def own_homes(router: Router, parent: nn.Module | None) -> Iterator[Home]:
    """Tensors of the router, or of the block around it, that look like a selection bias."""
    owners = [*router.module.modules(), *([] if parent is None else [parent])]
    for owner in owners:
        tensors = [*owner.named_buffers(recurse=False), *owner.named_parameters(recurse=False)]
        for name, tensor in tensors:
            looks_like_one = "bias" in name and tensor.is_floating_point()
            if looks_like_one and not tensor.requires_grad and tensor.numel() == router.num_experts:
                yield Home(owner, name)


def _raised(bias_E: Tensor, expert: int, amount: float) -> Tensor:
    raised_E = bias_E.clone()
    raised_E[expert] += amount
    return raised_E


def _halfway(now: _Run, expert: int) -> float:
    """What brings about half of the tokens to an expert."""
    last_T = now.score_TE.gather(1, now.expert_TK).amin(dim=-1)
    distance_T = last_T - now.score_TE[:, expert]
    distance_T = distance_T[distance_T.isfinite() & (distance_T > 0)]
    return float(distance_T.median()) if len(distance_T) else 0.0


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    parts = output if isinstance(output, (tuple, list)) else []
    return [part for part in parts if isinstance(part, Tensor)]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
        for a, b in zip(one, other, strict=True)
    )
