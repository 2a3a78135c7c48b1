"""Layers of one size, stacked: what they counted in this step, and their rule's state.

Counts are held here and not in buffers of the model, which DDP would overwrite. What a forward
counts is staged first and joins the step only when the forward has ended well.

Letters: L layers, T tokens, E experts, R real experts (those that compute), K top-k.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evenload.workers.attach.bias import Home, Kind
from evenload.workers.attach.errors import AttachError
from evenload.workers.balancing.base import Balancer, Observation


class Size(NamedTuple):
    """What layers must share to be stacked."""

    num_experts: int
    real_experts: int
    top_k: int
    kind: Kind


class Stack:
    """Args:
    homes:  where the biases are; empty where they are only recorded
    target: wanted share of the load per real expert; None is uniform
    """

    def __init__(
        self,
        size: Size,
        num_layers: int,
        rule: Balancer,
        homes: Sequence[Home],
        device: torch.device,
        target: Sequence[float] | None,
    ) -> None:
        self.size, self.rule, self.homes, self.num_layers = size, rule, homes, num_layers
        share = target or [1 / size.real_experts] * size.real_experts
        self._share_R = torch.tensor(share, device=device)
        self.state: Any = rule.init(num_layers, size.real_experts, device)
        self._measure = None if size.kind == "recorded" else rule.measure
        # What ranks sum: counts (L, E) and, if the rule has one, its statistic (L, ...).
        probe_TE = torch.zeros(1, size.num_experts, device=device)
        self.parts = [torch.zeros(num_layers, size.num_experts, dtype=torch.int64, device=device)]
        if self._measure is not None:
            part = self._measure.of(probe_TE, probe_TE[0], size.top_k)
            self.parts.append(part.new_zeros(num_layers, *part.shape))
        self._staged = [torch.zeros_like(part) for part in self.parts]

    def to(self, device: torch.device) -> None:
        """Follows a model that has moved."""
        self._share_R = self._share_R.to(device)
        self.state = type(self.state)(*(value.to(device) for value in self.state))
        self.parts = [part.to(device) for part in self.parts]
        self._staged = [part.to(device) for part in self._staged]

    def begin(self) -> None:
        """Forgets what a forward staged that did not end."""
        for part in self._staged:
            part.zero_()

    def commit(self) -> None:
        for part, staged in zip(self.parts, self._staged, strict=True):
            part += staged

    def clear(self) -> None:
        for part in self.parts:
            part.zero_()

    def count(self, row: int, expert_TK: Tensor, valid_T: Tensor | None) -> None:
        if expert_TK.device != self.parts[0].device:
            self.to(expert_TK.device)
        one = expert_TK.new_ones(()) if valid_T is None else valid_T.long().unsqueeze(1)
        weight_TK = one.expand_as(expert_TK).flatten()
        self._staged[0][row].scatter_add_(0, expert_TK.flatten(), weight_TK)

    def measure(self, row: int, score_TE: Tensor, valid_T: Tensor | None) -> None:
        """Adds a layer's statistic.  Args: score_TE: as the router's top-k got it"""
        if self._measure is None:
            return
        home = self.homes[row]
        bias_E = self._rule_bias(home.bias_E)
        # Where the bias is the model's own, its top-k gets scores that hold it already.
        score_TE = score_TE if home.is_added else score_TE - bias_E
        self._staged[1][row] += self._measure.of(score_TE, bias_E, self.size.top_k, valid_T)

    def _rule_bias(self, bias_E: Tensor) -> Tensor:
        """The bias with classes that compute nothing at the mean of the others: no rule moves them,
        and the range of its biases is that of the real experts."""
        real = self.size.real_experts
        if real == len(bias_E):
            return bias_E
        return torch.cat([bias_E[:real], bias_E[:real].mean().expand(len(bias_E) - real)])

    def bias_LE(self) -> Tensor:
        """All biases of now, (L, E) float32; zeros where there are none.

        Raises:   AttachError: one is float32 no more
        """
        if not self.homes:
            return torch.zeros_like(self.parts[0], dtype=torch.float32)
        for home in self.homes:
            if home.tensor.dtype != torch.float32:
                raise AttachError(
                    f"{home.name} of a {type(home.owner).__name__} became {home.tensor.dtype}, "
                    "too coarse for its steps: do not cast it; FSDP of torch does with "
                    "MixedPrecision(buffer_dtype=), so leave that out"
                )
        return torch.stack([home.bias_E for home in self.homes])

    def update(self, parts: Sequence[Tensor], progress: float) -> None:
        """One step of the rule.  Args: parts: `parts`, summed over ranks"""
        real = self.size.real_experts
        before_LE = self.bias_LE()
        count_LR = parts[0][:, :real]
        target_LR = self._share_R * count_LR.sum(dim=-1, keepdim=True).to(torch.float32)
        statistic = parts[1][:, :real] if len(parts) > 1 else None
        observation = Observation(count_LR, target_LR, progress, statistic)
        # The model's tensor is the truth: whoever loaded another bias into it wants that one.
        state = self.state._replace(bias_LE=before_LE[:, :real])
        self.state = self.rule.update(observation, state)
        self._write(before_LE, self.state.bias_LE)

    def fade(self, left: float) -> None:
        """Instead of a step of the rule: the biases are `left` of what the rule last made them."""
        self._write(self.bias_LE(), left * self.state.bias_LE)

    def _write(self, before_LE: Tensor, bias_LR: Tensor) -> None:
        """Classes that compute nothing move with the mean of the others: their share is kept."""
        real = bias_LR.shape[1]
        moved_L1 = (bias_LR - before_LE[:, :real]).mean(dim=-1, keepdim=True)
        bias_LE = torch.cat([bias_LR, before_LE[:, real:] + moved_L1], dim=-1)
        for home, bias_E in zip(self.homes, bias_LE, strict=True):
            home.bias_E.copy_(bias_E)
