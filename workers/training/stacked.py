"""Trials of equal shape as one program: every weight, gradient and moment has a trial dimension.

One launch then serves all trials. Nothing passes between them: each has its own tokens, biases,
balancer, gradient norm and figures, and what it computes is what it would compute alone, up to the
order of float sums in batched products.
Letters: N trials, L expert layers, B sequences, S tokens of a sequence, E experts, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing.base import Balancer, add_bias
from evenload.workers.kernels.linear_cross_entropy import linear_cross_entropy
from evenload.workers.model.router import Adjust, Routed
from evenload.workers.model.transformer import ModelOutput, MoELanguageModel
from evenload.workers.training.checkpoint import Checkpoint
from evenload.workers.training.ranks import ALONE
from evenload.workers.training.setup import adamw
from evenload.workers.training.step import StepOutput, StepSums, Trainee, autocast, balance_loss

Moments = dict[int, dict[str, Tensor]]  # the optimizer's state, by the number of the weight


class Part(NamedTuple):
    """What a trial of a stack has to itself."""

    trainee: Trainee
    state: Any  # of its balancer
    cpu_rng: Tensor
    cuda_rng: list[Tensor]


class TrialStack:
    """N trials that take every step together; `parts` says where each stands.

    Args:
        spec:  of any of them; they differ in balancing rule, step size and seed alone
        parts: with models and optimizers as they start or were restored, all after the same
               step; the stack takes copies of their weights and moments
    """

    def __init__(self, spec: TrialSpec, parts: Sequence[Part]) -> None:
        with torch.device("meta"):
            self._frame = MoELanguageModel(spec.model, spec.runtime.backend)
        self._train = spec.train
        models = [dict(part.trainee.model.named_parameters()) for part in parts]
        moments = [part.trainee.optimizer.state_dict()["state"] for part in parts]
        self._hold(
            parts,
            {name: torch.stack([m[name].detach() for m in models]) for name in models[0]},
            _with_tensors(lambda *own: torch.stack(own), *moments),
        )

    def step(self, token_NBS: Tensor, progress: float) -> list[StepOutput]:
        """One optimizer step of every trial.

        Args:     token_NBS: (N, B, S + 1), each trial's own sequences
                  progress: share of the training that is done after this step
        """
        parts = self.parts
        sums = [StepSums(part.state.bias_LE, ALONE) for part in parts]
        bias_LNE = torch.stack([part.state.bias_LE for part in parts], dim=1)
        self._optimizer.zero_grad(set_to_none=True)
        sizes = self._train.micro_batch_sequences or token_NBS.shape[1]
        micro_batches = token_NBS.split(sizes, dim=1)
        for micro_NBS in micro_batches:
            loss_N = self._losses(micro_NBS, bias_LNE, sums)
            (loss_N.sum() / len(micro_batches)).backward()
        grad_norm_N = clip_each(list(self._weights.values()), self._train.grad_clip)
        self._optimizer.step()
        outputs = []
        for place, (part, own, norm) in enumerate(zip(parts, sums, grad_norm_N, strict=True)):
            outputs.append(own.output(part.state, norm, len(micro_batches)))
            observation = own.observation(part.trainee, progress)
            state = part.trainee.balancer.update(observation, part.state)
            self.parts[place] = part._replace(state=state)
        return outputs

    def checkpoint(self, place: int, step: int) -> Checkpoint:
        """What the trial would write alone: it can go on alone or in another stack."""
        part = self.parts[place]
        whole = self._optimizer.state_dict()
        return Checkpoint(
            step=step,
            model={key: self._weights[name][place].detach().clone() for key, name in self._keys()},
            optimizer={
                "state": _with_tensors(lambda own: own[place].clone(), whole["state"]),
                "param_groups": whole["param_groups"],
            },
            balancer=part.state._asdict(),
            cpu_rng=part.cpu_rng,
            cuda_rng=part.cuda_rng,
        )

    def keep(self, places: Sequence[int]) -> None:
        """Goes on with these trials only; the others do not notice."""
        index = torch.tensor(places, device=next(iter(self._weights.values())).device)
        self._hold(
            [self.parts[place] for place in places],
            {name: weight.detach()[index] for name, weight in self._weights.items()},
            _with_tensors(lambda own: own[index], self._optimizer.state_dict()["state"]),
        )

    def _hold(self, parts: Sequence[Part], weights: Mapping[str, Tensor], moments: Moments) -> None:
        self._weights = {name: nn.Parameter(weight) for name, weight in weights.items()}
        self._optimizer = adamw(self._train, self._weights, stacked=1)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        # Lone models and optimizers are let go: only the stack's are trained.
        self.parts = [
            part._replace(
                trainee=part.trainee._replace(model=self._frame, optimizer=self._optimizer)
            )
            for part in parts
        ]
        self._adjust = stacked_adjust([part.trainee.balancer for part in parts])

    def _losses(self, token_NBS: Tensor, bias_LNE: Tensor, sums: list[StepSums]) -> Tensor:
        """The objective of every trial on one micro-batch, shape (N,)."""
        dtype = self.parts[0].trainee.autocast_dtype
        arguments = (token_NBS[..., :-1], bias_LNE, self._adjust)
        with autocast(token_NBS.device, dtype):
            output: ModelOutput = functional_call(self._frame, {**self._weights}, arguments)
        target_NT = token_NBS[..., 1:].flatten(1)
        lm_loss_N = linear_cross_entropy(output.hidden_BSD.flatten(1, 2), output.head_VD, target_NT)
        balance = []
        for place, (part, own) in enumerate(zip(self.parts, sums, strict=True)):
            alone = _of_trial(output, place)
            own.add_counts(alone)
            balance.append(balance_loss(part.trainee, alone, own, token_NBS.shape[1]))
            own.add_losses(lm_loss_N[place], balance[place])
            own.add_statistic(part.trainee.balancer, alone, part.state)
        return lm_loss_N + torch.stack(balance)

    def _keys(self) -> list[tuple[str, str]]:
        """Keys of a lone model's state with the name of the weight there: tied weights have two."""
        names = {id(weight): name for name, weight in self._frame.named_parameters()}
        state = self._frame.state_dict(keep_vars=True)
        return [(key, names[id(weight)]) for key, weight in state.items()]


def stacked_adjust(balancers: Sequence[Balancer]) -> Adjust:
    """(score_NTE, bias_NE) -> the score that selects, each trial's by its own rule."""
    special = [place for place, rule in enumerate(balancers) if rule.adjust is not add_bias]

    def adjust(score_NTE: Tensor, bias_NE: Tensor) -> Tensor:
        adjusted_NTE = score_NTE + bias_NE.unsqueeze(1)
        for place in special:
            adjusted_NTE[place] = balancers[place].adjust(score_NTE[place], bias_NE[place])
        return adjusted_NTE

    return adjust


def clip_each(weights: Sequence[nn.Parameter], limit: float) -> Tensor:
    """`clip_grad_norm_` for every trial by its own norm; returns the norms before, shape (N,)."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm_PN = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    norm_N = torch.linalg.vector_norm(norm_PN, dim=0)
    factor_N = (limit / (norm_N + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor_N.view(-1, *[1] * (gradient.ndim - 1)))
    return norm_N


def _of_trial(output: ModelOutput, place: int) -> ModelOutput:
    """Without margins: no router kernel takes stacked trials."""
    routed = tuple(Routed(*(value[place] for value in layer[:4])) for layer in output.routed)
    return ModelOutput(output.hidden_BSD[place], output.head_VD[place], routed)


def _with_tensors(change: Callable[..., Tensor], *moments: Moments) -> Moments:
    """The moments changed weight by weight; the number of steps is one for all trials."""
    return {
        number: {
            name: value.clone() if name == "step" else change(*(m[number][name] for m in moments))
            for name, value in entry.items()
        }
        for number, entry in moments[0].items()
    }
