"""Takes one optimizer step. No other code updates a balancer in training.

Letters: B sequences, S tokens of a sequence, V vocabulary, L expert layers, E experts.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evenload.workers.balancing.base import Balancer, Measure, Observation, RoutedBatch
from evenload.workers.model.contract import Output, Routed, RoutedModel
from evenload.workers.selection import NO_BINS
from evenload.workers.training.ranks import ALONE, Ranks

# Called for every micro-batch: its place in the step, the model's output, the bias that routed it.
Watch = Callable[[int, Output, Tensor], None]


class Trainee(NamedTuple):
    """The objects that a step changes, except the balancer state, which it returns."""

    model: RoutedModel
    optimizer: torch.optim.Optimizer
    balancer: Balancer
    target_E: Tensor  # wanted share of the load
    grad_clip: float
    autocast_dtype: torch.dtype | None
    watch: Watch | None = None
    ranks: Ranks = ALONE


class StepOutput(NamedTuple):
    """Figures of a step as tensors on the device, so that the host need not wait for them."""

    loss: Tensor  # nats per token
    balance_loss: Tensor
    grad_norm: Tensor
    count_LE: Tensor  # int64, sum over the step
    bias_LE: Tensor  # the bias that routed this step
    max_vio_micro: Tensor


def train_step(
    trainee: Trainee, state: Any, micro_batches: Sequence[Tensor], progress: float
) -> tuple[StepOutput, Any]:
    """Trains on the micro-batches, then updates the balancer once with the counts of the step.

    Args:
        state:         balancer state; its bias routes this step, the returned one the next step
        micro_batches: this rank's token ids, (B, S + 1) each; equally many on every rank
        progress:      share of the training that is done after this step
    """
    sums = StepSums(state.bias_LE, trainee.ranks)
    trainee.optimizer.zero_grad(set_to_none=True)
    for place, token_BS in enumerate(micro_batches):
        output = _forward(trainee, state, token_BS)
        if trainee.watch is not None:
            trainee.watch(place, output, state.bias_LE)
        sums.add_counts(output)
        lm_loss = output.loss(token_BS[:, 1:])
        balance = balance_loss(trainee, output, sums, len(token_BS))
        sums.add_losses(lm_loss, balance)
        sums.add_statistic(trainee.balancer, output, state)
        ((lm_loss + balance) / len(micro_batches)).backward()
    trainee.ranks.average_gradients(trainee.model)
    sums.add_other_ranks(trainee.balancer)
    grad_norm = nn.utils.clip_grad_norm_(trainee.model.parameters(), trainee.grad_clip)
    trainee.optimizer.step()
    observation = sums.observation(trainee, progress)
    return sums.output(state, grad_norm, len(micro_batches)), trainee.balancer.update(
        observation, state
    )


def trigger_compilation(trainee: Trainee, state: Any, token_BS: Tensor) -> None:
    """Runs both passes of a micro-batch and discards their results, so that the model compiles."""
    with torch.random.fork_rng():
        output = _forward(trainee, state, token_BS)
        output.loss(token_BS[:, 1:]).backward()
    trainee.optimizer.zero_grad(set_to_none=True)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Autocast to the dtype, or no autocast without a dtype."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def _forward(trainee: Trainee, state: Any, token_BS: Tensor) -> Output:
    rule = trainee.balancer
    bins = NO_BINS if rule.measure is None else rule.measure.bins
    with autocast(token_BS.device, trainee.autocast_dtype):
        return trainee.model(token_BS[:, :-1], state.bias_LE, rule.adjust, rule.selects, bins)


def balance_loss(trainee: Trainee, output: Output, sums: "StepSums", num_sequences: int) -> Tensor:
    loss = sums.count_LE.new_zeros((), dtype=torch.float32)
    if trainee.balancer.loss is None:
        return loss
    step_count_LE = trainee.ranks.sum(sums.count_LE)
    for routed, step_count_E in zip(output.routed, step_count_LE, strict=True):
        loss = loss + trainee.balancer.loss(
            RoutedBatch(
                routed.score_TE, routed.expert_TK, routed.count_E, step_count_E, num_sequences
            )
        )
    return loss


def _measured(measure: Measure, routed: Routed, bias_E: Tensor) -> Tensor:
    """The statistic of one layer, as counted by a router kernel or computed from the scores."""
    if routed.margin_E2B is not None:
        return routed.margin_E2B
    return measure.of(routed.score_TE.detach(), bias_E, routed.expert_TK.shape[-1])


class StepSums:
    """Sums over the micro-batches of a step and then over the ranks."""

    def __init__(self, bias_LE: Tensor, ranks: Ranks) -> None:
        self._ranks = ranks
        self.count_LE = torch.zeros_like(bias_LE, dtype=torch.int64)
        self._loss = bias_LE.new_zeros(())
        self._balance_loss = bias_LE.new_zeros(())
        self._vio_micro = bias_LE.new_zeros(())
        self._statistic: Tensor | None = None

    def add_counts(self, output: Output) -> None:
        count_LE = torch.stack([routed.count_E for routed in output.routed])
        self.count_LE = self.count_LE + count_LE
        load_LE = count_LE.float()
        self._vio_micro += (load_LE.amax(dim=-1) / load_LE.mean(dim=-1) - 1).mean()

    def add_losses(self, lm_loss: Tensor, balance_loss: Tensor) -> None:
        self._loss += lm_loss.detach()
        self._balance_loss += balance_loss.detach()

    @torch.no_grad()
    def add_statistic(self, balancer: Balancer, output: Output, state: Any) -> None:
        if balancer.measure is None:
            return
        part = torch.stack(
            [
                _measured(balancer.measure, routed, bias_E)
                for routed, bias_E in zip(output.routed, state.bias_LE, strict=True)
            ]
        )
        if self._statistic is None:
            self._statistic = part
        elif balancer.measure.reduction == "sum":
            self._statistic = self._statistic + part
        else:
            self._statistic = torch.cat([self._statistic, part], dim=1)

    def add_other_ranks(self, balancer: Balancer) -> None:
        """Sums counts and statistics over all ranks, and averages losses."""
        self.count_LE = self._ranks.sum(self.count_LE)
        figure_3 = torch.stack([self._loss, self._balance_loss, self._vio_micro])
        self._loss, self._balance_loss, self._vio_micro = self._ranks.mean(figure_3).unbind()
        if balancer.measure is None or self._statistic is None:
            return
        if balancer.measure.reduction == "sum":
            self._statistic = self._ranks.sum(self._statistic)
        else:
            self._statistic = self._ranks.concatenate(self._statistic, dim=1)

    def observation(self, trainee: Trainee, progress: float) -> Observation:
        total_L1 = self.count_LE.sum(dim=-1, keepdim=True)
        target_LE = trainee.target_E * total_L1.to(torch.float32)
        return Observation(self.count_LE, target_LE, progress, self._statistic)

    def output(self, state: Any, grad_norm: Tensor, num_micro_batches: int) -> StepOutput:
        return StepOutput(
            loss=self._loss / num_micro_batches,
            balance_loss=self._balance_loss / num_micro_batches,
            grad_norm=grad_norm.detach(),
            count_LE=self.count_LE,
            bias_LE=state.bias_LE,
            max_vio_micro=self._vio_micro / num_micro_batches,
        )
