"""Compares a stack with its trials trained one by one.

Tolerance: both compute the same products, batched or not, so only the order of float32 sums
differs. The longest sums, over 128 tokens x 32 values, have 2^12 terms: sqrt(2^12) * 6e-8 = 4e-6 of
a figure in one step. Adam passes on relative errors, so after the 4 steps here 2e-5 is five times
that. Counts are equal, because no score is that close to its boundary.
Letters: N trials, B sequences, S tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from evenload.pipeline.spec.balancers import BALANCERS, parse_balancer
from evenload.pipeline.spec.stacking import UNSTACKABLE
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.balancing import make_balancer
from evenload.workers.training import checkpoint
from evenload.workers.training.setup import assemble
from evenload.workers.training.stacked import StackMember, TrialStack, clip_each
from evenload.workers.training.step import StepOutput, train_step

MakeSpec = Callable[..., TrialSpec]
TOLERANCE = 2e-5
STEPS = 4
RULES: list[dict[str, Any]] = [
    {"kind": "none"},
    {"kind": "sign", "step_size": 0.01},
    {"kind": "aux_loss", "scope": "global"},
    {"kind": "quantile", "method": "exact"},
    {"kind": "self_tuned"},
    {"kind": "sinkhorn"},
    {"kind": "sign", "step_size": 0.01, "every": 2, "aux": {"coefficient": 0.01}},
]


def tokens_of(seed: int) -> Tensor:
    return torch.randint(0, 32, (STEPS, 4, 33), generator=torch.Generator().manual_seed(seed))


def stack_of(specs: list[TrialSpec]) -> TrialStack:
    members = []
    for spec in specs:
        assembly = assemble(spec)
        members.append(StackMember(assembly.trainee, assembly.state, torch.get_rng_state(), []))
    return TrialStack(specs[0], members)


class SingleTrial:
    """A trial that trains outside of a stack."""

    def __init__(self, spec: TrialSpec) -> None:
        self.assembly = assemble(spec)
        self.state = self.assembly.state
        self.micro = spec.train.micro_batch_sequences or spec.train.batch_sequences

    def step(self, token_BS: Tensor, progress: float) -> StepOutput:
        trainee = self.assembly.trainee
        output, self.state = train_step(trainee, self.state, token_BS.split(self.micro), progress)
        return output

    def checkpoint(self) -> checkpoint.Checkpoint:
        trainee = self.assembly.trainee
        return checkpoint.capture(STEPS, trainee.model, trainee.optimizer, self.state)


def assert_close(left: Tensor, right: Tensor, what: str = "") -> None:
    assert left.shape == right.shape, what
    assert (left - right).norm() <= TOLERANCE * right.norm() + 1e-12, what


@pytest.mark.parametrize("train", [{}, {"micro_batch_sequences": 2}])
@pytest.mark.parametrize("model", [{}, {"tie_embeddings": True, "gate": "softmax"}])
def test_every_trial_of_a_stack_equals_the_trial_alone(
    make_spec: MakeSpec, train: dict[str, Any], model: dict[str, Any]
) -> None:
    specs = [
        make_spec(balancer=rule, model=model, train=train | {"seed": seed, "grad_clip": 0.5})
        for seed, rule in enumerate(RULES)
    ]
    stack, singles = stack_of(specs), [SingleTrial(spec) for spec in specs]
    token_NMBS = torch.stack([tokens_of(seed) for seed in range(len(specs))])
    for step in range(STEPS):
        progress = (step + 1) / STEPS
        together = stack.step(token_NMBS[:, step], progress)
        for trial, token_MBS, ours in zip(singles, token_NMBS, together, strict=True):
            theirs = trial.step(token_MBS[step], progress)
            assert torch.equal(ours.count_LE, theirs.count_LE)
            for name in ("loss", "balance_loss", "grad_norm", "bias_LE", "max_vio_micro"):
                assert_close(getattr(ours, name), getattr(theirs, name), name)
    for place, trial in enumerate(singles):
        ours, theirs = stack.checkpoint(place, STEPS), trial.checkpoint()
        assert set(ours.model) == set(theirs.model)
        for name, weight in theirs.model.items():
            assert_close(ours.model[name], weight, name)
        for name, value in theirs.balancer.items():
            assert_close(ours.balancer[name].double(), value.double(), name)


def test_a_trial_does_not_depend_on_the_rest_of_the_stack(make_spec: MakeSpec) -> None:
    """Bit for bit, also next to a trial whose gradient has another norm to clip."""
    quiet, loud = (make_spec(train={"seed": seed, "grad_clip": 0.01}) for seed in (1, 2))
    token_MBS, other_MBS = tokens_of(1), tokens_of(2)
    results = []
    for spec in (quiet, loud):
        stack = stack_of([quiet, spec])
        for step in range(STEPS):
            second = token_MBS if spec is quiet else other_MBS
            stack.step(torch.stack([token_MBS[step], second[step]]), 0.5)
        results.append(stack.checkpoint(0, STEPS))
    for name, weight in results[0].model.items():
        assert torch.equal(weight, results[1].model[name]), name


def test_each_checkpoint_keeps_the_random_state_of_its_own_trial(make_spec: MakeSpec) -> None:
    specs = [make_spec(train={"seed": seed}) for seed in (3, 4)]
    stack = stack_of(specs)
    token_NBS = torch.stack([tokens_of(seed)[0] for seed in (3, 4)])
    stack.step(token_NBS, 0.5)
    saved = [stack.checkpoint(place, 1) for place in (0, 1)]
    for place, spec in enumerate(specs):
        single = SingleTrial(spec)
        single.step(token_NBS[place], 0.5)
        assert torch.equal(saved[place].cpu_rng, single.checkpoint().cpu_rng)


def test_a_trial_that_leaves_does_not_change_the_others(make_spec: MakeSpec) -> None:
    specs = [make_spec(train={"seed": seed}) for seed in range(3)]
    token_NMBS = torch.stack([tokens_of(seed) for seed in range(3)])
    whole, parted = stack_of(specs), stack_of(specs)
    for step in range(STEPS):
        whole.step(token_NMBS[:, step], 0.5)
        if step == 2:
            parted.keep([0, 2])
        parted.step(token_NMBS[:, step] if step < 2 else token_NMBS[[0, 2], step], 0.5)
    for place, now in ((0, 0), (2, 1)):
        before, after = whole.checkpoint(place, STEPS), parted.checkpoint(now, STEPS)
        for name, weight in before.model.items():
            assert_close(after.model[name], weight, name)


def test_a_checkpoint_of_a_stack_resumes_alone_and_in_another_stack(make_spec: MakeSpec) -> None:
    specs = [make_spec(train={"seed": seed}) for seed in (3, 4)]
    token_NMBS = torch.stack([tokens_of(seed) for seed in (3, 4)])
    stack, single = stack_of(specs), SingleTrial(specs[1])
    for step in range(2):
        stack.step(token_NMBS[:, step], 0.5)
    saved = stack.checkpoint(1, 2)
    trainee = single.assembly.trainee
    single.state = checkpoint.restore(saved, trainee.model, trainee.optimizer, single.state)
    restored = StackMember(trainee, single.state, saved.cpu_rng, [])
    second_stack = TrialStack(specs[1], [restored, restored])
    for step in range(2, STEPS):
        expected = stack.step(token_NMBS[:, step], 0.5)[1]
        alone = single.step(token_NMBS[1, step], 0.5)
        stacked = second_stack.step(token_NMBS[[1, 1], step], 0.5)[1]
        for other in (alone, stacked):
            assert torch.equal(expected.count_LE, other.count_LE)
            assert_close(expected.loss, other.loss)


def test_each_trial_is_clipped_by_its_own_norm() -> None:
    weight_N4 = torch.nn.Parameter(torch.zeros(3, 4))
    weight_N4.grad = torch.tensor([[3.0, 4.0, 0, 0], [0.3, 0.4, 0, 0], [0, 0, 0, 0]])
    norm_N = clip_each([weight_N4], 1.0)
    torch.testing.assert_close(norm_N, torch.tensor([5.0, 0.5, 0.0]))
    expected = torch.tensor([[0.6, 0.8, 0, 0], [0.3, 0.4, 0, 0], [0, 0, 0, 0]])
    torch.testing.assert_close(weight_N4.grad, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", sorted(BALANCERS))
def test_rules_that_a_stack_cannot_hold_are_kept_apart(kind: str) -> None:
    """Those with other rows, with weights that do not learn, or that draw."""
    rule = make_balancer(parse_balancer({"kind": kind}), top_k=2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    rule.adjust(torch.rand(8, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(4))
    draws = not torch.equal(before, torch.get_rng_state())
    apart = draws or rule.selects == "experts" or not rule.trains_router
    assert apart == (kind in UNSTACKABLE)
