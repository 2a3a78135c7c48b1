"""Trains trials of equal shape as one program: all weights and moments have a trial dimension.

One launch then computes all trials. They share nothing: each trial has its own tokens, biases,
balancer, gradient norm and figures. It computes the same as alone, up to the order of float sums in
batched products.
Letters: N trials, L expert layers, B sequences, S tokens of a sequence, E experts, P parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing.base import Balancer, add_bias
from evenload.workers.kernels.linear_cross_entropy import linear_cross_entropy
from evenload.workers.model.contract import Adjust, Routed
from evenload.workers.model.transformer import ModelOutput, MoELanguageModel
from evenload.workers.training.checkpoint import Checkpoint
from evenload.workers.training.ranks import ALONE
from evenload.workers.training.setup import adamw
from evenload.workers.training.step import StepOutput, StepSums, Trainee, autocast, balance_loss

Moments = dict[int, dict[str, Tensor]]  # the optimizer's state by the number of the weight


class StackMember(NamedTuple):
    """The objects that a trial does not share with the rest of its stack."""

    trainee: Trainee
    state: Any  # balancer state
    cpu_rng: Tensor
    cuda_rng: list[Tensor]


class TrialStack:
    """N trials that take every step together; `members` has their current state.

    Args:
        spec:    spec of any trial; all differ only in balancing rule, step size and seed
        members: their models and optimizers are new or restored, all after the same step; the
                 stack copies their weights and moments
    """

    def __init__(self, spec: TrialSpec, members: Sequence[StackMember]) -> None:
        with torch.device("meta"):
            self._model = MoELanguageModel(spec.own_model, spec.runtime.backend)
        self._train = spec.train
        models = [dict(member.trainee.model.named_parameters()) for member in members]
        moments = [member.trainee.optimizer.state_dict()["state"] for member in members]
        self._set_members(
            members,
            {name: torch.stack([m[name].detach() for m in models]) for name in models[0]},
            _map_moments(lambda *own: torch.stack(own), *moments),
        )

    def step(self, token_NBS: Tensor, progress: float) -> list[StepOutput]:
        """Takes one optimizer step of every trial.

        Args:     token_NBS: (N, B, S + 1), the sequences of each trial
                  progress: share of the training that is done after this step
        """
        members = self.members
        sums = [StepSums(member.state.bias_LE, ALONE) for member in members]
        bias_LNE = torch.stack([member.state.bias_LE for member in members], dim=1)
        self._optimizer.zero_grad(set_to_none=True)
        sizes = self._train.micro_batch_sequences or token_NBS.shape[1]
        micro_batches = token_NBS.split(sizes, dim=1)
        for micro_NBS in micro_batches:
            loss_N = self._losses(micro_NBS, bias_LNE, sums)
            (loss_N.sum() / len(micro_batches)).backward()
        grad_norm_N = clip_each(list(self._weights.values()), self._train.grad_clip)
        self._optimizer.step()
        outputs = []
        for place, (member, own, norm) in enumerate(zip(members, sums, grad_norm_N, strict=True)):
            outputs.append(own.output(member.state, norm, len(micro_batches)))
            observation = own.observation(member.trainee, progress)
            state = member.trainee.balancer.update(observation, member.state)
            self.members[place] = member._replace(state=state)
        return outputs

    def checkpoint(self, place: int, step: int) -> Checkpoint:
        """The same checkpoint as of a trial that trains alone or in another stack."""
        member = self.members[place]
        whole = self._optimizer.state_dict()
        return Checkpoint(
            step=step,
            model={key: self._weights[name][place].detach().clone() for key, name in self._keys()},
            optimizer={
                "state": _map_moments(lambda own: own[place].clone(), whole["state"]),
                "param_groups": whole["param_groups"],
            },
            balancer=member.state._asdict(),
            cpu_rng=member.cpu_rng,
            cuda_rng=member.cuda_rng,
        )

    def keep(self, places: Sequence[int]) -> None:
        """Removes all other trials, which does not change the numbers of these."""
        index = torch.tensor(places, device=next(iter(self._weights.values())).device)
        self._set_members(
            [self.members[place] for place in places],
            {name: weight.detach()[index] for name, weight in self._weights.items()},
            _map_moments(lambda own: own[index], self._optimizer.state_dict()["state"]),
        )

    def _set_members(
        self, members: Sequence[StackMember], weights: Mapping[str, Tensor], moments: Moments
    ) -> None:
        self._weights = {name: nn.Parameter(weight) for name, weight in weights.items()}
        self._optimizer = adamw(self._train, self._weights, stacked=1)
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": moments, "param_groups": groups})
        # Only the stack's model and optimizer train, so those of the members can be freed.
        self.members = [
            member._replace(
                trainee=member.trainee._replace(model=self._model, optimizer=self._optimizer)
            )
            for member in members
        ]
        self._adjust = stacked_adjust([member.trainee.balancer for member in members])

    def _losses(self, token_NBS: Tensor, bias_LNE: Tensor, sums: list[StepSums]) -> Tensor:
        """The objective of every trial on one micro-batch, shape (N,)."""
        dtype = self.members[0].trainee.autocast_dtype
        arguments = (token_NBS[..., :-1], bias_LNE, self._adjust)
        with autocast(token_NBS.device, dtype):
            output: ModelOutput = functional_call(self._model, {**self._weights}, arguments)
        target_NT = token_NBS[..., 1:].flatten(1)
        lm_loss_N = linear_cross_entropy(output.hidden_BSD.flatten(1, 2), output.head_VD, target_NT)
        balance = []
        for place, (member, own) in enumerate(zip(self.members, sums, strict=True)):
            alone = _of_trial(output, place)
            own.add_counts(alone)
            balance.append(balance_loss(member.trainee, alone, own, token_NBS.shape[1]))
            own.add_losses(lm_loss_N[place], balance[place])
            own.add_statistic(member.trainee.balancer, alone, member.state)
        return lm_loss_N + torch.stack(balance)

    def _keys(self) -> list[tuple[str, str]]:
        """Keys of a single model's state with the weight's name; tied weights have two keys."""
        names = {id(weight): name for name, weight in self._model.named_parameters()}
        state = self._model.state_dict(keep_vars=True)
        return [(key, names[id(weight)]) for key, weight in state.items()]


def stacked_adjust(balancers: Sequence[Balancer]) -> Adjust:
    """(score_NTE, bias_NE) -> the score that selects, computed by each trial's own rule."""
    special = [place for place, rule in enumerate(balancers) if rule.adjust is not add_bias]

    def adjust(score_NTE: Tensor, bias_NE: Tensor) -> Tensor:
        adjusted_NTE = score_NTE + bias_NE.unsqueeze(1)
        for place in special:
            adjusted_NTE[place] = balancers[place].adjust(score_NTE[place], bias_NE[place])
        return adjusted_NTE

    return adjust


def clip_each(weights: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Clips each trial's gradients like `clip_grad_norm_`; returns the norms before, (N,)."""
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norm_PN = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    norm_N = torch.linalg.vector_norm(norm_PN, dim=0)
    factor_N = (limit / (norm_N + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor_N.view(-1, *[1] * (gradient.ndim - 1)))
    return norm_N


def _of_trial(output: ModelOutput, place: int) -> ModelOutput:
    """The output of one trial, without margins: router kernels do not support stacked trials."""
    routed = tuple(
        Routed(layer.score_TE[place], layer.expert_TK[place], None, layer.count_E[place])
        for layer in output.routed
    )
    return ModelOutput(output.hidden_BSD[place], output.head_VD[place], routed)


def _map_moments(change: Callable[..., Tensor], *moments: Moments) -> Moments:
    """Applies `change` to the moments of every weight. All trials have the same number of steps."""
    return {
        number: {
            name: value.clone() if name == "step" else change(*(m[number][name] for m in moments))
            for name, value in entry.items()
        }
        for number, entry in moments[0].items()
    }
