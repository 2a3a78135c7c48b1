"""Training of small models: a step against rivals, what a trial adds to it, and stacks of trials.

Everything is measured in turn in one run; a ratio is the median of the ratios within each turn, so
that what else the machine does falls on both sides.
Letters: B sequences, S tokens of a sequence.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from pipeline.model_size import model_size
from pipeline.spec import TrialSpec
from workers.benchmarks.language_models import MISSING, Arm, ours, rivals
from workers.benchmarks.measure import every_turn, timing
from workers.benchmarks.stack_speed import stacks
from workers.benchmarks.step_profile import time_by_kind
from workers.benchmarks.trial_overhead import overhead

# preset, B, S, turns
SHAPES = (("tiny", 32, 128, 40), ("tiny", 8, 128, 80), ("small", 16, 128, 8))
QUICK_SHAPES = (("tiny", 2, 16, 2),)
OURS = "evenload"
GOAL = 2.0  # times the tokens/s of the best rival
CPU = torch.device("cpu")


def run(quick: bool = False) -> dict[str, Any]:
    return {
        "threads": 1,
        "steps": [step_speed(*shape) for shape in (QUICK_SHAPES if quick else SHAPES)],
        "overhead": overhead(quick),
        "stacks": stacks(quick),
    }


def trial(preset: str, batch_sequences: int, seq_len: int, **train: Any) -> TrialSpec:
    return TrialSpec.model_validate(
        {
            "model": {"preset": preset},
            "balancer": {"kind": "sign"},
            "train": {
                "steps": 1000,
                "batch_sequences": batch_sequences,
                "seq_len": seq_len,
                **train,
            },
            "runtime": {"device": "cpu", "backend": "torch", "threads": 1},
        }
    )


def step_speed(preset: str, batch_sequences: int, seq_len: int, turns: int) -> dict[str, Any]:
    """Tokens/s of each arm with quartiles, and how many times a rival's ours are."""
    spec = trial(preset, batch_sequences, seq_len)
    arms, missing = {OURS: ours(spec)}, {}
    try:
        arms |= rivals(spec)
    except ModuleNotFoundError:
        missing["transformers"] = MISSING
    seconds = every_turn({name: arm.step for name, arm in arms.items()}, CPU, turns)
    return {
        "preset": preset,
        "batch_sequences": batch_sequences,
        "seq_len": seq_len,
        "turns": turns,
        "missing": missing,
        "arms": {
            name: _figures(spec, arm, seconds[name], seconds[OURS]) for name, arm in arms.items()
        },
    }


def _figures(
    spec: TrialSpec, arm: Arm, seconds: list[float], our_seconds: list[float]
) -> dict[str, Any]:
    tokens = spec.train.tokens_per_step
    flops = tokens * model_size(spec.model).train_flops_per_token(spec.train.seq_len)
    ratios = [theirs / own for theirs, own in zip(seconds, our_seconds, strict=True)]
    return {
        "parameters": arm.parameters,
        "experts": arm.experts,
        "step_ms": {name: 1e3 * value for name, value in timing(seconds)._asdict().items()},
        "tokens_per_second": tokens / statistics.median(seconds),
        "gflops": flops / statistics.median(seconds) / 1e9,
        "ours_is_faster_by": timing(ratios)._asdict(),
        "milliseconds_by_kind": time_by_kind(arm.step),
    }


def table(document: dict[str, Any]) -> str:
    lines: list[str] = []
    for shape in document["steps"]:
        lines += ["", f"{shape['preset']}, {shape['batch_sequences']} x {shape['seq_len']} tokens:"]
        lines += [_step_line(name, arm) for name, arm in shape["arms"].items()]
        lines += [f"  missing: {name}: {how}" for name, how in shape["missing"].items()]
    lines += ["", *_overhead_lines(document["overhead"]), "", "8 trials as one against in turn:"]
    lines += [_stack_line(stack) for stack in document["stacks"]]
    return "\n".join(lines)


def _step_line(name: str, arm: dict[str, Any]) -> str:
    ratio, kinds = arm["ours_is_faster_by"], arm["milliseconds_by_kind"]
    most = ", ".join(f"{kind} {value:.1f}" for kind, value in list(kinds.items())[:4])
    return (
        f"  {name:<26}{arm['tokens_per_second']:>10,.0f} tokens/s  ours x {ratio['median']:.2f} "
        f"({ratio['low']:.2f} to {ratio['high']:.2f})  ms: {most}"
    )


def _stack_line(stack: dict[str, Any]) -> str:
    ratio, shape = stack["stacked_over_apart"], "{preset} {batch_sequences} x {seq_len}, {what}"
    return (
        f"  {shape.format(**stack):<32}{ratio['median']:.2f} "
        f"({ratio['low']:.2f} to {ratio['high']:.2f})"
    )


def _share(share: dict[str, float]) -> str:
    return f"{share['median']:+.1%} ({share['low']:+.1%} to {share['high']:+.1%})"


def _overhead_lines(result: dict[str, Any]) -> list[str]:
    return [
        f"a trial of {result['steps']} steps over the bare loop: {_share(result['over_bare_loop'])}",
        f"  over its own steps: {_share(result['over_own_steps'])}",
        f"  heartbeats {result['heartbeat_share']:.2%}, "
        f"coordinator {result['coordinator_share']:.2%} of one core besides",
    ]
