"""`attach`: balances somebody else's model, and the session that it returns.

    balance = evenload.attach(model)           # finds the routers, proves itself, adds the biases
    balance.watch(optimizer)                   # moves them after every optimizer step
    ...                                        # train as before
    balance.max_vio()                          # how even the last step was, by layer
    balance.detach()

The biases move once per optimizer step, from what that step's forwards selected, summed over
micro-batches and ranks. Tokens of a step that the optimizer skipped join the next one. Padding,
evaluation, generation and reference passes do not count.

Letters: L layers, E experts.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.spec.balancers import BalancerSpec, parse_balancer
from evenload.workers.attach.attachment import Attachment, Layer
from evenload.workers.attach.bias import is_swapped
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.interception import Selection
from evenload.workers.attach.passes import Passes, backward_is_running
from evenload.workers.attach.ranks import Ranks
from evenload.workers.attach.routers import Router, probe_of
from evenload.workers.attach.stacks import Size, Stack
from evenload.workers.balancing import make_balancer
from evenload.workers.balancing.base import add_bias

log = logging.getLogger("evenload.attach")

# step, count_LE (int64), bias_LE (float32) that routed it; rows of fewer experts end in zeros.
Recorder = Callable[[int, Tensor, Tensor], None]

IDLE_STEPS = 3  # optimizer steps without a training forward after which it is said


def attach(
    model: nn.Module,
    rule: str | Mapping[str, Any] | BalancerSpec = "self_tuned",
    *,
    probe: object = None,
    routers: Collection[nn.Module] | None = None,
    group: dist.ProcessGroup | None = None,
    every: int = 1,
    total_steps: int | None = None,
    recorder: Recorder | None = None,
) -> Balance:
    """Balances the experts of a model from now on; nothing else about its training changes.

    Args:
        rule:        a balancing rule's name, or a mapping with `kind` and its parameters; "none"
                     records only
        probe:       a batch that the model takes, if attach cannot make one: a tensor, a tuple of
                     arguments or a dict of keyword arguments
        routers:     these modules alone
        group:       ranks that hold other tokens; None is the default group where there is one
        every:       the rule moves on every so many steps, from that step's tokens alone
        total_steps: optimizer steps of the whole training, for rules with a pace
        recorder:    called after every step
    Raises:   AttachError: the model is as it was; the message says what to do
    """
    spec = parse_balancer({"kind": rule} if isinstance(rule, str) else rule)
    _check_rule(spec, total_steps, every)
    swapped = [name for name, module in model.named_modules() if is_swapped(module)]
    if swapped:
        raise AttachError(f"{swapped[0]} is attached already; call detach() of its session first")
    balance = Balance(spec, Ranks.of(group), every, total_steps, recorder)
    balance.open(model, probe, routers)
    log.info("%s", balance)
    return balance


def _check_rule(spec: BalancerSpec, total_steps: int | None, every: int) -> None:
    rule = make_balancer(spec, top_k=1)
    if rule.loss is not None or rule.adjust is not add_bias or rule.selects != "tokens":
        raise AttachError(
            f"rule {spec.kind!r} does more than move a bias, and the model's code is not ours; use "
            "self_tuned, kalman, quantile, sign, proportional, smebu, ema or none"
        )
    if not rule.trains_router:
        raise AttachError(
            f"rule {spec.kind!r} freezes routers: call requires_grad_(False) on the model's and "
            "use 'proportional'"
        )
    paced = spec.params.get("warm_until", 0) > 0 or spec.params.get("freeze_from", 1) < 1
    if paced and total_steps is None:
        raise AttachError(
            f"rule {spec.label!r} depends on the share of training that is done: pass total_steps="
        )
    if every < 1:
        raise AttachError(f"every={every}: must be at least 1")


def _check_router(spec: BalancerSpec, router: Router, ranks: Ranks) -> None:
    """Raises: AttachError: the rule does not fit a router that is to be balanced"""
    if spec.target is not None and len(spec.target) != router.real_experts:
        raise AttachError(
            f"target has {len(spec.target)} shares, but {router.name} has {router.real_experts} "
            "experts: give one share per expert"
        )
    method = spec.params.get("method")
    if method == "exact" and ranks.size > 1:
        raise AttachError(
            f"quantile with method='exact' runs on one rank, here are {ranks.size}: use "
            "method='histogram' or self_tuned"
        )
    if method == "histogram" and router.unit != "probability":
        raise AttachError(
            f"{router.name} selects on a {router.unit}, and the histogram of quantile is made for "
            "scores in (0, 1): use method='exact' or self_tuned"
        )


class Balance:
    """A model that is being balanced. `attach` makes it.

    Attributes:
        layers: the routers in the order of their forwards, and what became of each
        steps:  optimizer steps so far that had tokens
    """

    def __init__(
        self,
        spec: BalancerSpec,
        ranks: Ranks,
        every: int,
        total_steps: int | None,
        recorder: Recorder | None,
    ) -> None:
        self.spec, self.every, self.total_steps = spec, every, total_steps
        self.recorder = recorder
        self.steps = 0
        self.layers: list[Layer] = []
        self._ranks = ranks
        self._passes = Passes(self._begin, self._commit)
        self._attachment: Attachment | None = None
        self._stacks: list[Stack] = []
        self._places: list[tuple[int, int]] = []  # of each layer: its stack, its row there
        self._watched: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # -> handle of our hook
        self._seen = False  # a forward counted since the last move
        self._due = False  # an optimizer stepped while a backward pass ran
        self._idle = 0
        self._last: list[tuple[Tensor, Tensor]] = []  # by stack: counts of the last step, biases

    def open(self, model: nn.Module, probe: object, only: Collection[nn.Module] | None) -> None:
        """Puts everything into the model.  Raises: AttachError: nothing is left in it"""
        attachment = Attachment(model, self._passes)
        try:
            with_bias = self.spec.kind != "none"
            layers = attachment.try_out(probe_of(model, probe), only, with_bias)
            self._check_layers(layers)
            self._stack_up(layers)
            seen = {
                layer.router.module: partial(self._count, place, layer.router)
                for layer, place in zip(layers, self._places, strict=True)
            }
            attachment.settle(layers, seen)
        except BaseException:
            attachment.close()
            raise
        self.layers, self._attachment = layers, attachment

    def _check_layers(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            if layer.home is not None:
                _check_router(self.spec, layer.router, self._ranks)
        self._ranks.agree([(str(layer), layer.router.top_k) for layer in layers])
        refused = [f"{layer.name} {layer.reason}" for layer in layers if layer.home is None]
        if self.spec.kind == "none" or not refused:
            return
        said = "; ".join(refused)
        if len(refused) == len(layers):
            raise AttachError(f"no router can be balanced: {said}; rule='none' records the loads")
        warnings.warn(f"recorded without balancing: {said}", stacklevel=5)

    def _stack_up(self, layers: Sequence[Layer]) -> None:
        """Layers of one size on one device share a stack."""
        groups: dict[tuple[Size, torch.device], list[Layer]] = {}
        for layer in layers:
            _, module, num_experts, real, top_k, *_ = layer.router
            size = Size(num_experts, real, top_k, layer.home is not None)
            device = next(module.parameters()).device
            groups.setdefault((size, device), []).append(layer)
        rows: dict[str, tuple[int, int]] = {}
        for place, ((size, device), members) in enumerate(groups.items()):
            rule = make_balancer(self.spec, size.top_k)
            homes = [layer.home for layer in members if layer.home is not None]
            stack = Stack(size, len(members), rule, homes, device, self.spec.target)
            self._stacks.append(stack)
            rows |= {layer.name: (place, row) for row, layer in enumerate(members)}
        self._places = [rows[layer.name] for layer in layers]

    def watch(self, *optimizers: torch.optim.Optimizer) -> Balance:
        """Moves the biases after every step of these optimizers, once however many there are.

        A step that a gradient scaler skips moves nothing, a fused optimizer's included.
        Raises:   AttachError: no torch optimizer
        """
        self._check_open()
        for given in optimizers:
            optimizer: Any = given
            # accelerate wraps optimizers in others that have no hooks.
            while not hasattr(optimizer, "_optimizer_step_post_hooks"):
                if not hasattr(optimizer, "optimizer"):
                    raise AttachError(
                        f"{type(given).__name__} has no step hooks, so it is no torch optimizer: "
                        "call balance.step() after each of its steps"
                    )
                optimizer = optimizer.optimizer
            if optimizer not in self._watched:
                self._watched[optimizer] = optimizer.register_step_post_hook(self._after_step)
        return self

    def step(self) -> None:
        """Moves the biases now. To be called once per optimizer step, after it, on every rank."""
        self._check_open()
        self._move(skipped=False)

    def counts(self) -> dict[str, Tensor]:
        """Assignments per expert in the last step, int64 (E,), over all ranks, by layer."""
        return self._by_layer([count_LE for count_LE, _ in self._last])

    def biases(self) -> dict[str, Tensor]:
        """The biases of now, float32 (E,), by layer; zeros where there is none."""
        return self._by_layer([stack.bias_LE() for stack in self._stacks])

    def max_vio(self) -> dict[str, float]:
        """Load of the fullest expert over the mean, less 1, in the last step, by layer."""
        real = {layer.name: layer.router.real_experts for layer in self.layers}
        counts = self.counts().items()
        return {name: float(max_vio(c_E[: real[name]].cpu().numpy())) for name, c_E in counts}

    def detach(self) -> None:
        """Leaves the model as it was before, but for what its own biases have learned."""
        attachment = self._check_open()
        for handle in self._watched.values():
            handle.remove()
        attachment.close()
        self._attachment = None

    def __repr__(self) -> str:
        return "\n  ".join([f"evenload {self.spec.label}", *map(str, self.layers)])

    def _check_open(self) -> Attachment:
        if self._attachment is None:
            raise AttachError("this session is closed: detach() was called; attach the model again")
        return self._attachment

    def _by_layer(self, value_by_stack: Sequence[Tensor]) -> dict[str, Tensor]:
        if not value_by_stack:
            return {}
        places = zip(self.layers, self._places, strict=True)
        return {layer.name: value_by_stack[stack][row] for layer, (stack, row) in places}

    def _begin(self) -> None:
        """An outermost forward that counts begins."""
        if self._due:
            self._due = False
            self._move(skipped=False)
        for stack in self._stacks:
            stack.begin()

    @torch.no_grad()
    def _count(
        self, place: tuple[int, int], router: Router, output: Any, selection: Selection
    ) -> None:
        stack, row = self._stacks[place[0]], place[1]
        expert_TK = selection.expert_TK if router.output is None else output[router.output]
        if expert_TK is None:
            return
        valid_T = self._passes.valid(len(expert_TK), router.name)
        stack.count(row, expert_TK, valid_T)
        if selection.score_TE is not None and (self.steps + 1) % self.every == 0:
            stack.measure(row, selection.score_TE, valid_T)

    @torch.no_grad()
    def _commit(self) -> None:
        for stack in self._stacks:
            stack.commit()
        self._seen = True

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if backward_is_running():
            # Moving now would change the selection between a forward and its recomputation.
            self._due = True
            return
        # A fused optimizer is stepped by the scaler even if it is to skip.
        found_inf = getattr(optimizer, "found_inf", None)
        self._move(skipped=found_inf is not None and bool(found_inf))

    @torch.no_grad()
    def _move(self, skipped: bool) -> None:
        self._passes.reset()
        own = [stack.parts() for stack in self._stacks]
        flags = (self._seen, skipped)
        # Whether the step is empty is decided after the sum: this rank may be the only one without.
        seen, skipped, flat = self._ranks.sum(flags, [part for parts in own for part in parts])
        if skipped:
            return
        if not seen:
            self._note_idle()
            return
        self._seen = False
        self.steps += 1
        summed = iter(flat)
        before = [stack.bias_LE() for stack in self._stacks]
        self._last = []
        for stack, parts, bias_LE in zip(self._stacks, own, before, strict=True):
            total = [next(summed) for _ in parts]
            self._last.append((total[0].clone(), bias_LE))
            if stack.size.balanced and self.steps % self.every == 0:
                stack.update(total, self._progress())
            stack.clear()
        if self.recorder is not None:
            self.recorder(self.steps, *self._record())

    def _progress(self) -> float:
        return 1.0 if self.total_steps is None else min(1.0, self.steps / self.total_steps)

    def _record(self) -> tuple[Tensor, Tensor]:
        """Counts and biases of the last step, layer by layer, filled up with zeros."""
        width = max(layer.router.num_experts for layer in self.layers)
        pad = torch.nn.functional.pad
        rows = [
            (self._last[stack][0][row], self._last[stack][1][row]) for stack, row in self._places
        ]
        count_LE, bias_LE = (
            torch.stack([pad(value_E, (0, width - len(value_E))) for value_E in values])
            for values in zip(*rows, strict=True)
        )
        return count_LE, bias_LE

    def _note_idle(self) -> None:
        self._idle += 1
        if self.steps == 0 and self._idle == IDLE_STEPS:
            warnings.warn(
                f"{self._idle} optimizer steps, but no training forward went through the attached "
                "routers: nothing is balanced. Is another copy of the model being trained?",
                stacklevel=3,
            )
