"""Training of small models: a step compared with rivals, the overhead of a trial, and stacks.

All arms take turns in one run. A ratio is the median of the ratios within each turn, so that other
work of the machine affects both sides.
Letters: B sequences, S tokens of a sequence.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack, closing
from typing import Any

import torch

from evenload.pipeline.figures.model_size import model_size
from evenload.pipeline.spec.trial import TrialSpec
from evenload.workers.tuning.timing import every_turn, timing
from infra.benchmarks.language_models import GLM, MISSING, OURS, OURS_COMPILED, arm_builders
from infra.benchmarks.separate_processes import ArmProcess, fastest
from infra.benchmarks.stack_speed import stacks
from infra.benchmarks.trial_overhead import overhead

# preset, B, S, turns
SHAPES = (("tiny", 32, 128, 40), ("tiny", 8, 128, 80), ("small", 16, 128, 8))
QUICK_SHAPES = (("tiny", 2, 16, 2),)
CPU = torch.device("cpu")


def run(quick: bool = False) -> dict[str, Any]:
    return {
        "threads": 1,
        "steps": [
            step_speed(*shape, compiled=not quick) for shape in (QUICK_SHAPES if quick else SHAPES)
        ],
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


def step_speed(
    preset: str, batch_sequences: int, seq_len: int, turns: int, compiled: bool = True
) -> dict[str, Any]:
    """Tokens per second of each arm with quartiles, and the ratios of step times to ours.

    Each arm runs in its own process, as its users run it. If there are several ways to build an
    arm, the fastest is measured.
    """
    spec = trial(preset, batch_sequences, seq_len)
    with ExitStack() as stack:
        arms = {
            name: stack.enter_context(closing(fastest(builders)))
            for name, builders in arm_builders(spec, compiled).items()
        }
        seconds = every_turn({name: arm.step for name, arm in arms.items()}, CPU, turns)
        found = {name: _figures(spec, arm, seconds, name) for name, arm in arms.items()}
    return {
        "preset": preset,
        "batch_sequences": batch_sequences,
        "seq_len": seq_len,
        "turns": turns,
        "missing": {} if GLM in arms else {"transformers": MISSING},
        "arms": found,
    }


def _figures(
    spec: TrialSpec, arm: ArmProcess, seconds: dict[str, list[float]], name: str
) -> dict[str, Any]:
    tokens, median = spec.train.tokens_per_step, statistics.median(seconds[name])
    flops = tokens * model_size(spec.model).train_flops_per_token(spec.train.seq_len)
    return {
        "parameters": arm.parameters,
        "experts": arm.experts,
        "step_ms": {key: 1e3 * value for key, value in timing(seconds[name])._asdict().items()},
        "tokens_per_second": tokens / median,
        "gflops": flops / median / 1e9,
        "slower_than": {
            own: timing(
                [theirs / ours for theirs, ours in zip(seconds[name], seconds[own], strict=True)]
            )._asdict()
            for own in (OURS, OURS_COMPILED)
            if own in seconds
        },
        "milliseconds_by_kind": arm.milliseconds_by_kind(),
    }


def table(document: dict[str, Any]) -> str:
    lines: list[str] = []
    for shape in document["steps"]:
        lines += ["", f"{shape['preset']}, {shape['batch_sequences']} x {shape['seq_len']} tokens:"]
        lines += [_step_line(name, arm) for name, arm in shape["arms"].items()]
        lines += [f"  missing: {name}: {how}" for name, how in shape["missing"].items()]
    lines += ["", *_overhead_lines(document["overhead"])]
    lines += ["", "time of 8 trials as one program over 8 in turn:"]
    lines += [_stack_line(stack) for stack in document["stacks"]]
    return "\n".join(lines)


def _step_line(name: str, arm: dict[str, Any]) -> str:
    kinds = list(arm["milliseconds_by_kind"].items())[:4]
    times = "".join(f"  {ratio['median']:.2f} x {own}" for own, ratio in arm["slower_than"].items())
    most = ", ".join(f"{kind} {value:.1f}" for kind, value in kinds)
    return f"  {name:<32}{arm['tokens_per_second']:>10,.0f} tokens/s{times}  ms: {most}"


def _stack_line(stack: dict[str, Any]) -> str:
    shape = "{preset} {batch_sequences} x {seq_len}, {what}".format(**stack)
    return f"  {shape:<32}{_with_quartiles(stack['stacked_over_apart'], '.2f')}"


def _with_quartiles(found: dict[str, float], form: str) -> str:
    low, median, high = (format(found[name], form) for name in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def _overhead_lines(result: dict[str, Any]) -> list[str]:
    bare, own = (
        _with_quartiles(result[name], "+.1%") for name in ("over_bare_loop", "over_own_steps")
    )
    return [
        f"a trial of {result['steps']} steps takes more time than the bare loop by {bare}, and "
        f"than its own steps by {own}",
        f"  in addition heartbeats take {result['heartbeat_share']:.2%} of one core, the "
        f"coordinator {result['coordinator_share']:.2%}",
    ]
