"""A language model of another's code behind the contract of `RoutedModel`.

Its routers are found and proved as by `evenload.attach`, and intercepted likewise. But the bias is
an argument of every forward pass, and what was selected is its result.

Letters: B sequences, S positions, V vocabulary, L expert layers, T tokens, E experts, K top-k.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenload.pipeline.errors import SpecError
from evenload.workers.attach.attachment import Attachment, Layer
from evenload.workers.attach.bias import Home, house, stop_others
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.interception import Forward, Interceptor, Selection, redirect
from evenload.workers.attach.passes import Passes, backward_is_running
from evenload.workers.attach.routers import Probe
from evenload.workers.kernels.rows import count_experts
from evenload.workers.model.contract import Adjust, Routed, RoutedModel, Selects, next_token_loss
from evenload.workers.selection import NO_BINS, Bins

Call = Callable[[nn.Module, Tensor], Tensor]  # (module, token_BS) -> logits_BSV


class LogitsOutput(NamedTuple):
    logits_BSV: Tensor
    routed: tuple[Routed, ...]

    def loss(self, target_BS: Tensor) -> Tensor:
        return next_token_loss(self.logits_BSV, target_BS)


class Seam(Interceptor):
    """What the forward of one router goes through: it selects by the bias of the running pass."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.router.num_experts, layer.router.top_k, None)
        self.name, self.module, self.reason = layer.name, layer.router.module, layer.reason
        self.has_stages = bool(layer.router.stages)  # more experts would bypass its groups
        self.own: Home | None = None  # where the model's own bias is
        if layer.home is not None and not layer.home.is_added:
            self.own = layer.home
        self.is_free = layer.home is not None  # a bias can be given
        self._bias_E: Tensor | None = None
        self._adjust: Adjust = torch.add
        self._routed: Routed | None = None

    def give(self, bias_E: Tensor, adjust: Adjust) -> None:
        """The bias of the next pass, which holds for its recomputation, too."""
        self._bias_E, self._adjust, self._routed = bias_E, adjust, None
        if self.own is not None:
            self.own.bias_E.copy_(bias_E)

    def take(self) -> Routed:
        routed, self._routed = self._routed, None
        if routed is None:
            raise AttachError(f"{self.name} made no top-{self.top_k} call in this pass")
        return routed

    def route(self, module: nn.Module, forward: Forward, args: Any, kwargs: Any) -> Any:
        given_E = self._bias_E if self.is_free and self.own is None else None
        with Selection(self.num_experts, self.top_k, given_E, self._by_rows) as selection:
            output = forward(*args, **kwargs)
        if not backward_is_running() and selection.expert_TK is not None:
            assert selection.score_TE is not None
            score_TE = selection.score_TE
            # The model's own bias is in the score that its top-k got.
            score_TE = score_TE if self.own is None else score_TE - self.own.bias_E
            count_E = count_experts(selection.expert_TK, self.num_experts)
            self._routed = Routed(score_TE, selection.expert_TK, None, count_E)
        return output

    def _by_rows(self, score: Tensor, bias_E: Tensor) -> Tensor:
        """Rules take tokens in one dimension; models may have more."""
        return self._adjust(score.flatten(0, -2), bias_E).view_as(score)


class AttachedModel(RoutedModel):
    """Args:
    module: the model; it belongs to this object from now on
    probe:  a small batch that it takes
    call:   runs it on token ids
    takes_bias: whether the bias of a pass has to reach every router

    Raises:   SpecError: a router passes no proof of `evenload.attach`
    """

    def __init__(self, module: nn.Module, probe: Probe, call: Call, takes_bias: bool) -> None:
        super().__init__()
        self.module, self._probe, self._call = module, probe, call
        self._seams = [Seam(layer) for layer in _proved(module, probe)]
        for seam in self._seams:
            if takes_bias and seam.reason:
                raise SpecError(f"model: {seam.name} {seam.reason}")
            if seam.own is not None:
                house(seam.own, seam.num_experts)
                list(stop_others(seam.own))
            redirect(seam.module, seam)
        self._top_k: int | None = None  # None: as the model was built

    def forward(
        self,
        token_BS: Tensor,
        bias_LE: Tensor,
        adjust: Adjust = torch.add,
        selects: Selects = "tokens",
        bins: Bins = NO_BINS,
    ) -> LogitsOutput:
        with torch.no_grad():
            for seam, bias_E in zip(self._seams, bias_LE.unbind(), strict=True):
                seam.give(bias_E, adjust)
        with self._choosing():
            logits_BSV = self._call(self.module, token_BS)
            return LogitsOutput(logits_BSV, tuple(seam.take() for seam in self._seams))

    def routers(self) -> list[nn.Module]:
        return [seam.module for seam in self._seams]

    def initial_bias(self) -> Tensor | None:
        if any(seam.own is None for seam in self._seams):
            return None
        return torch.stack([seam.own.bias_E.clone() for seam in self._seams if seam.own])

    def with_top_k(self, top_k: int) -> "AttachedModel | None":
        for seam in self._seams:
            if seam.has_stages or getattr(seam.module, "top_k", None) != seam.top_k:
                return None
        model = copy.copy(self)
        model._top_k = top_k
        device = next(self.parameters()).device
        probe = self._probe._replace(args=tuple(value.to(device) for value in self._probe.args))
        with model._choosing():
            try:
                probe.run(self.module)
                for seam in self._seams:
                    seam.take()
            except AttachError:
                return None
        return model

    @contextmanager
    def _choosing(self) -> Iterator[None]:
        """Routers choose this object's number of experts, which they keep in `top_k`."""
        if self._top_k is None:
            yield
            return
        before = [seam.top_k for seam in self._seams]
        try:
            for seam in self._seams:
                seam.top_k = seam.module.top_k = self._top_k  # type: ignore[assignment]
            yield
        finally:
            for seam, top_k in zip(self._seams, before, strict=True):
                seam.top_k = seam.module.top_k = top_k  # type: ignore[assignment]


def _proved(module: nn.Module, probe: Probe) -> list[Layer]:
    """The expert layers, after the checks of `evenload.attach`; interceptors are in place."""
    attachment = Attachment(module, Passes(lambda: None, lambda: None))
    try:
        layers = attachment.try_out(probe, None, with_bias=True)
        if attachment.unseen:
            raise AttachError("; ".join(attachment.unseen))
    except AttachError as error:
        raise SpecError(f"model: {error}") from None
    return layers
