"""The session of an attached model: what it counts, moves, tells and keeps.

The biases move once per optimizer step, from what that step's forwards selected, summed over
micro-batches and ranks. Tokens of a step that the optimizer skipped join the next one.

Letters: L layers, E experts.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from evenload.pipeline.figures.loads import max_vio
from evenload.workers.attach import saving
from evenload.workers.attach.attachment import Attachment, Layer
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.interception import Selection
from evenload.workers.attach.options import Options
from evenload.workers.attach.passes import Passes, backward_is_running
from evenload.workers.attach.ranks import Ranks
from evenload.workers.attach.routers import Router, probe_of
from evenload.workers.attach.score_sample import ScoreSampler
from evenload.workers.attach.stacks import Size, Stack
from evenload.workers.balancing import make_balancer

if TYPE_CHECKING:
    from evenload.workers.attach.run_record import RunRecord

IDLE_STEPS = 3  # optimizer steps without a training forward after which it is said


class Balance:
    """A model that is being balanced. `attach` makes it.

    Attributes:
        layers: the routers in the order of their forwards, and what became of each
        steps:  optimizer steps so far that had tokens
    """

    def __init__(self, options: Options, ranks: Ranks) -> None:
        self.options = options
        self.steps = 0
        self.layers: list[Layer] = []
        self._ranks = ranks
        self._passes = Passes(self._begin, self._commit)
        self._attachment: Attachment | None = None
        self._stacks: list[Stack] = []
        self._places: list[tuple[int, int]] = []  # of each layer: its stack, its row there
        self._watched: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # -> handle of our hook
        self._staged = False  # the forward that runs reached a router of ours
        self._seen = False  # a forward counted since the last move
        self._due = False  # an optimizer stepped while a backward pass ran
        self._idle = 0
        self._adapters_said = False
        self._agreed = False  # all ranks have told what they found
        self._last: list[tuple[Tensor, Tensor]] = []  # by stack: counts of the last step, biases
        self._scores: ScoreSampler | None = None
        self._record: RunRecord | None = None

    def open(self, model: nn.Module, probe: object, only: Collection[nn.Module] | None) -> None:
        """Puts everything into the model.  Raises: AttachError: nothing is left in it"""
        attachment = Attachment(model, self._passes)
        try:
            layers = attachment.try_out(probe_of(model, probe), only, self.options.moves_biases)
            self._check(layers, attachment.unseen)
            self._stack_up(layers)
            seen = {
                layer.router.module: partial(self._count, number, layer.router)
                for number, layer in enumerate(layers)
            }
            attachment.settle(layers, seen)
        except BaseException as error:
            attachment.close()
            if isinstance(error, AttachError) and not self._agreed:
                self._ranks.agree(str(error))  # who waits for this rank is told
            raise
        self.layers, self._attachment = layers, attachment

    def _check(self, layers: Sequence[Layer], unseen: Sequence[str]) -> None:
        if not layers:
            raise AttachError(f"no router can be balanced or recorded: {'; '.join(unseen)}")
        for layer in layers:
            if layer.home is not None:
                self.options.check_router(layer.router)
        if self.options.record_scores is not None:
            self._scores = ScoreSampler(self.options.record_scores, layers, self._ranks.is_first)
        if self.options.record is not None and self._ranks.is_first:
            from evenload.workers.attach.run_record import RunRecord  # it imports pyarrow

            self._record = RunRecord(self.options.record, self.options.spec, layers)
            if self._scores is not None:
                self._scores.run = self._record
        self._agreed = True
        self._ranks.agree([str(layer) for layer in layers])
        refused = [f"{layer.name} {layer.reason}" for layer in layers if layer.home is None]
        if unseen:
            warnings.warn(f"neither balanced nor recorded: {'; '.join(unseen)}", stacklevel=5)
        if not self.options.moves_biases or not refused:
            return
        said = "; ".join(refused)
        if len(refused) == len(layers):
            raise AttachError(f"no router can be balanced: {said}; rule='none' records the loads")
        warnings.warn(f"recorded without balancing: {said}", stacklevel=5)

    def _stack_up(self, layers: Sequence[Layer]) -> None:
        """Layers of one size on one device share a stack."""
        groups: dict[tuple[Size, torch.device], list[Layer]] = {}
        for layer in layers:
            router = layer.router
            size = Size(router.num_experts, router.real_experts, router.top_k, layer.kind)
            device = next(router.module.parameters()).device
            groups.setdefault((size, device), []).append(layer)
        rows: dict[str, tuple[int, int]] = {}
        for place, ((size, device), members) in enumerate(groups.items()):
            rule = make_balancer(self.options.spec, size.top_k)
            homes = [layer.home for layer in members if layer.home is not None]
            target = self.options.spec.target
            self._stacks.append(Stack(size, len(members), rule, homes, device, target))
            rows |= {layer.name: (place, row) for row, layer in enumerate(members)}
        self._places = [rows[layer.name] for layer in layers]

    def watch(self, *optimizers: torch.optim.Optimizer) -> Balance:
        """Moves the biases after every step of these optimizers, once however many there are.

        A step that a gradient scaler skips moves nothing, a fused optimizer's included.
        Raises:   AttachError: no torch optimizer
        """
        self._check_open()
        self.warn_of_adapters()
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

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on as if it had never stopped. To be taken between steps."""
        rows = [saving.rows_of(stack.state, stack.num_layers) for stack in self._stacks]
        places = zip(self.layers, self._places, strict=True)
        return {
            "format": saving.FORMAT,
            "rule": self.options.spec.model_dump(mode="json"),
            "steps": self.steps,
            "biases": {name: bias_E.cpu() for name, bias_E in self.biases().items()},
            "states": {layer.name: rows[stack][row] for layer, (stack, row) in places},
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state; from biases alone where it holds nothing else.

        Raises:   AttachError: of another rule, or of other layers
        """
        self._check_open()
        rule = self.options.spec.model_dump(mode="json")
        if "states" in state and state["rule"] != rule:
            raise AttachError(
                f"the saved state is of the rule {state['rule']}, this session has {rule}: attach "
                "with the saved rule, or load its biases alone: {'biases': state['biases']}"
            )
        names = [layer.name for layer in self.layers]
        biases = saving.matched(names, state["biases"])
        states = saving.matched(names, state["states"]) if "states" in state else None
        for layer, bias_E in zip(self.layers, biases, strict=True):
            if len(bias_E) != layer.router.num_experts:
                raise AttachError(
                    f"{len(bias_E)} biases were saved for {layer.name}, which has "
                    f"{layer.router.num_experts} experts"
                )
        for place, stack in enumerate(self._stacks):
            mine = [number for number, (where, _) in enumerate(self._places) if where == place]
            if states is not None:
                stack.state = saving.stacked(stack.state, [states[number] for number in mine])
            for home, number in zip(stack.homes, mine, strict=bool(stack.homes)):
                home.bias_E.copy_(biases[number])
        self.steps = state.get("steps", self.steps)

    def save(self, folder: str | Path) -> Path:
        """Writes `state_dict` into a folder, beside the weights, for `attach(resume=folder)`."""
        return saving.write(self.state_dict(), folder)

    def export(self, folder: str | Path) -> None:
        """Writes the model, with its added biases, as a type that has a bias of its own.

        Raises:   AttachError: no type is equivalent
        """
        from evenload.workers.attach.export import export

        export(self._check_open().model, folder)

    def load(self, place: str | Path) -> None:
        """Goes on from what `save` wrote there.  Raises: AttachError: it does not fit"""
        self.load_state_dict(saving.read(place))

    def write_scores(self) -> Path:
        """Writes the scores recorded so far.  Raises: AttachError: none are recorded"""
        if self._scores is None:
            raise AttachError("no scores are recorded: call attach(record_scores='scores.npz')")
        return self._scores.write()

    def log(self, **figures: Any) -> None:
        """Tells the record figures of the last step: loss, learning_rate, grad_norm.

        To be called after the optimizer's step. Tensors are read later, in another thread.
        Raises:   AttachError: another figure
        """
        if self._record is not None:
            self._record.tell(figures)

    def finish(self) -> None:
        """Writes everything recorded that is in no file yet. Never fails."""
        if self._record is not None:
            self._record.close()
        if self._scores is not None:
            self._scores.close()

    def detach(self) -> None:
        """Leaves the model as it was before, but for what its own biases have learned."""
        attachment = self._check_open()
        self.finish()
        for handle in self._watched.values():
            handle.remove()
        attachment.close()
        self._attachment = None

    def __repr__(self) -> str:
        record = [] if self._record is None else [str(self._record)]
        return "\n  ".join([f"evenload {self.options.spec.label}", *map(str, self.layers), *record])

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
        self._ranks.check_all_step()
        if self._due:
            self._due = False
            self._move(skipped=False)
        self._staged = False
        for stack in self._stacks:
            stack.begin()
        if self._scores is not None:
            self._scores.begin()

    @torch.no_grad()
    def _count(
        self, layer: int, router: Router, output: Any, selection: Selection, padding: Tensor | None
    ) -> None:
        place, row = self._places[layer]
        stack = self._stacks[place]
        expert_TK = selection.expert_TK if router.output is None else output[router.output]
        if expert_TK is None:
            return
        self._staged = True
        if padding is None:
            valid_T = self._passes.valid(len(expert_TK), router.name)
        else:
            valid_T = ~padding.bool().flatten()
        stack.count(row, expert_TK, valid_T)
        score_TE = None if selection.score_TE is None else selection.score_TE.detach()
        if score_TE is not None and (self.steps + 1) % self.options.every == 0:
            stack.measure(row, score_TE, valid_T)
        if self._scores is not None and score_TE is not None:
            self._scores.take(layer, score_TE, valid_T)

    @torch.no_grad()
    def _commit(self) -> None:
        for stack in self._stacks:
            stack.commit()
        if self._scores is not None:
            self._scores.commit()
        self._seen |= self._staged

    def _after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if backward_is_running():
            # Moving now would change the selection between a forward and its recomputation.
            self._due = True
            return
        # A scaler steps a fused optimizer even if it is to skip.
        found_inf = getattr(optimizer, "found_inf", None)
        self._move(skipped=found_inf is not None and bool(found_inf))

    @torch.no_grad()
    def _move(self, skipped: bool) -> None:
        self._passes.reset()
        own = [stack.parts for stack in self._stacks]
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
        self._last = []
        for stack, parts in zip(self._stacks, own, strict=True):
            total = [next(summed) for _ in parts]
            self._last.append((total[0].clone(), stack.bias_LE()))
            self._move_stack(stack, total)
            stack.clear()
        if self._scores is not None and self._scores.is_on:
            self._scores.end_step(*self._moved())
        if self._record is not None:
            self._record.end_step(self.steps, *self._moved(), self.options.total_steps)
        if self.options.recorder is not None:
            self.options.recorder(self.steps, *self._moved())

    def _move_stack(self, stack: Stack, total: Sequence[Tensor]) -> None:
        left = self.options.left(self.steps)
        if stack.size.kind == "added" and left < 1:
            stack.fade(left)
        elif stack.size.kind != "recorded" and self.steps % self.options.every == 0:
            stack.update(total, self.options.progress(self.steps))

    def _moved(self) -> tuple[Tensor, Tensor]:
        """Counts and biases of the last step, layer by layer, filled up with zeros."""
        if len(self._last) == 1:  # the usual case: one stack of all layers
            return self._last[0]
        width = max(layer.router.num_experts for layer in self.layers)
        device = self._last[0][0].device  # layers may be on several
        rows = [
            [value[row].to(device) for value in self._last[stack]] for stack, row in self._places
        ]
        count_LE, bias_LE = (
            torch.stack([nn.functional.pad(row_E, (0, width - len(row_E))) for row_E in column])
            for column in zip(*rows, strict=True)
        )
        return count_LE, bias_LE

    def _note_idle(self) -> None:
        self._idle += 1
        if self.steps == 0 and self._idle == IDLE_STEPS:
            warnings.warn(
                f"{self._idle} optimizer steps, but no training forward went through the attached "
                "routers: nothing is balanced. Is a copy of the model being trained, or is it in "
                "evaluation mode?",
                stacklevel=3,
            )

    def warn_of_adapters(self) -> None:
        """Says once what an adapter's folder lacks. The adapter may come after attach."""
        if self._adapters_said or not hasattr(self._check_open().model, "peft_config"):
            return
        self._adapters_said = True
        warnings.warn(
            "this is a PEFT model, and its adapter folder will hold no bias: call "
            "balance.save(folder) beside it, or save the merged model",
            stacklevel=3,
        )
