"""Compares eight trials as one program with the same eight in turn: steps and whole trials."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any

import torch

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress
from evenload.workers.data.corpus import prepare
from evenload.workers.training.loop import TrainOutcome, train
from evenload.workers.training.setup import assemble
from evenload.workers.training.stacked import StackMember, TrialStack
from evenload.workers.training.stacked_loop import StackRequest, train_stacked
from evenload.workers.training.step import train_step
from evenload.workers.tuning.timing import every_turn, timing

TRIALS = 8
# preset, sequences per batch, tokens per sequence, turns
STEPS = (
    ("tiny", 2, 64, 20),
    ("tiny", 4, 128, 20),
    ("tiny", 8, 128, 16),
    ("tiny", 16, 128, 12),
    ("tiny", 32, 128, 12),
    ("small", 4, 128, 3),
)
WHOLE = (("tiny", 8, 128, 2), ("tiny", 16, 128, 2))
QUICK = (("tiny", 2, 16, 2),)
WHOLE_STEPS = 40
CPU = torch.device("cpu")


def stacks(quick: bool) -> list[dict[str, Any]]:
    """The time of a stack divided by that of its trials in turn."""
    figures = [step_figures(*shape) for shape in (QUICK if quick else STEPS)]
    return figures + [
        _figures(*shape, "whole trials", _whole_trials) for shape in (QUICK if quick else WHOLE)
    ]


def step_figures(
    preset: str, batch_sequences: int, seq_len: int, turns: int, device: torch.device = CPU
) -> dict[str, Any]:
    return _figures(preset, batch_sequences, seq_len, turns, "steps", _steps, device)


Arms = dict[str, Callable[[], object]]


def _figures(
    preset: str,
    batch_sequences: int,
    seq_len: int,
    turns: int,
    what: str,
    arms_of: Callable[[list[TrialSpec], Settings], Arms],
    device: torch.device = CPU,
) -> dict[str, Any]:
    specs = [_trial(preset, batch_sequences, seq_len, seed, device) for seed in range(TRIALS)]
    with tempfile.TemporaryDirectory() as folder:
        seconds = every_turn(arms_of(specs, Settings(home=Path(folder))), device, turns)
    pairs = zip(seconds["stacked"], seconds["apart"], strict=True)
    return {
        "preset": preset,
        "batch_sequences": batch_sequences,
        "seq_len": seq_len,
        "what": what,
        "trials": TRIALS,
        "turns": turns,
        "apart_seconds": timing(seconds["apart"])._asdict(),
        "stacked_over_apart": timing([one / other for one, other in pairs])._asdict(),
    }


def _steps(specs: list[TrialSpec], _: Settings) -> Arms:
    """One step of every trial; the models are built before."""
    singles = [assemble(spec) for spec in specs]
    states = [assembly.state for assembly in singles]
    members = [
        StackMember(assembly.trainee, assembly.state, torch.get_rng_state(), [])
        for assembly in (assemble(spec) for spec in specs)
    ]
    stack, train_spec = TrialStack(specs[0], members), specs[0].train
    shape = (TRIALS, train_spec.batch_sequences, train_spec.seq_len + 1)
    device = singles[0].device
    token_NBS = torch.randint(0, specs[0].model.vocab_size, shape).to(device)

    def apart() -> None:
        for place, assembly in enumerate(singles):
            tokens = [token_NBS[place]]
            _, states[place] = train_step(assembly.trainee, states[place], tokens, 0.1)

    return {"apart": apart, "stacked": lambda: stack.step(token_NBS, 0.1)}


def _whole_trials(specs: list[TrialSpec], settings: Settings) -> Arms:
    """Whole trials up to the last checkpoint, with shards and MLflow."""
    prepare(specs[0].data, settings.corpus_dir)
    numbers = count(1)

    def requests() -> list[StackRequest]:
        return [_request(spec, settings, next(numbers)) for spec in specs]

    def apart() -> None:
        for spec, digest, sink, report, run, _ in requests():
            train(spec, settings=settings, digest=digest, sink=sink, report=report, run=run)
            sink.close()

    def stacked() -> None:
        stack = requests()
        train_stacked(stack, settings)
        for request in stack:
            request.sink.close()

    return {"apart": apart, "stacked": stacked}


def _request(spec: TrialSpec, settings: Settings, number: int) -> StackRequest:
    digest = f"{number:016x}"
    run = RunIdentity(
        digest=digest, name=digest, sweep_id=None, attempt=1, spec=spec.model_dump(mode="json")
    )
    outcome = Future[TrainOutcome]()
    return StackRequest(spec, digest, default_sinks(settings, run), _continue, run, outcome)


def _continue(_: Progress) -> Command:
    return Command.CONTINUE


def _trial(
    preset: str, batch_sequences: int, seq_len: int, seed: int, device: torch.device
) -> TrialSpec:
    vocabulary = {"tiny": 256, "small": 8192}[preset]
    return TrialSpec.model_validate(
        {
            "model": {"preset": preset},
            "data": {"kind": "synthetic", "vocab_size": vocabulary, "num_tokens": 2_000_000},
            "balancer": {"kind": "sign", "step_size": 0.001 * (seed + 1)},
            "train": {
                "steps": WHOLE_STEPS,
                "batch_sequences": batch_sequences,
                "seq_len": seq_len,
                "seed": seed,
                "precision": "bfloat16" if device.type == "cuda" else "float32",
            },
            "runtime": {"device": device.type, "backend": "torch", "threads": 1},
        }
    )
