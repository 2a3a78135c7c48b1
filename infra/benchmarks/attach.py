"""The cost of `evenload.attach`: step time of an attached model over that of the bare one.

All arms train the same Hugging Face model in one process and take turns, so that a ratio compares
neighbouring steps on the same machine. On a CPU the time is that of the process: other programs on
the machine do not count.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch

import evenload
from infra.research.tiny_models import tiny_model

BARE = "bare"
RULES = ("none", "sign", "self_tuned")
RECORDED = "self_tuned, recorded"  # with name=
FAMILIES = ("qwen3_moe", "deepseek_v3")  # an added bias, a bias of the model's own


class Shape(NamedTuple):
    num_experts: int
    top_k: int
    width: int
    layers: int
    tokens: int


LARGE = Shape(32, 4, 256, 4, 1536)
GPU = Shape(64, 8, 1024, 8, 16_384)
QUICK = Shape(8, 2, 64, 2, 256)
TURNS, QUICK_TURNS = 12, 3


def run(quick: bool = False) -> dict[str, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape = QUICK if quick else GPU if device.type == "cuda" else LARGE
    turns = QUICK_TURNS if quick else TURNS
    return {
        "device": device.type,
        "turns": turns,
        "shape": shape._asdict(),
        "families": {family: measure(family, shape, turns, device) for family in FAMILIES},
    }


def table(document: dict[str, Any]) -> str:
    lines = ["family       arm                   step ms   over bare (quartiles)"]
    for family, arms in document["families"].items():
        for name, arm in arms.items():
            ratio = f"{arm['ratio']:.3f} ({arm['ratio_low']:.3f} to {arm['ratio_high']:.3f})"
            lines.append(f"{family:<13}{name:<22}{arm['step_ms']:>7.1f}   {ratio}")
    return "\n".join(lines)


def measure(family: str, shape: Shape, turns: int, device: torch.device) -> dict[str, Any]:
    """Medians over the turns; a ratio is that of two steps of one turn."""
    with ExitStack() as opened:
        names = (BARE, *RULES, RECORDED)
        arms = {name: arm(family, shape, name, device, opened) for name in names}
        return measure_in_turns(arms, turns, device)


def measure_in_turns(
    arms: dict[str, Callable[[], None]], turns: int, device: torch.device
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(turns + 1):
        for name, step in arms.items():
            elapsed = seconds_of(step, device)
            if turn:  # the first one allocates
                seconds[name].append(elapsed)
    return {name: figures(own, seconds[BARE]) for name, own in seconds.items()}


def figures(own: list[float], bare: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(own, bare, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return {
        "step_ms": statistics.median(own) * 1e3,
        "ratio": median,
        "ratio_low": low,
        "ratio_high": high,
    }


def arm(
    family: str, shape: Shape, rule: str, device: torch.device, opened: ExitStack
) -> Callable[[], None]:
    """A step of training: forward, backward, optimizer, and the update of the biases.

    Args:     opened: closes what the arm leaves open
    """
    model: Any = tiny_model(
        family,
        vocab_size=512,
        hidden_size=shape.width,
        intermediate_size=2 * shape.width,
        moe_intermediate_size=shape.width,
        num_hidden_layers=shape.layers,
        max_position_embeddings=shape.tokens,
        num_experts=shape.num_experts,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
        **({} if family == "qwen3_moe" else {"first_k_dense_replace": 0, "n_group": 1}),
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    if rule != BARE:
        record: dict[str, Any] = {}
        if rule == RECORDED:
            home = opened.enter_context(tempfile.TemporaryDirectory())
            record = {"name": family, "home": home}
        kind = rule.partition(",")[0]
        balance = evenload.attach(model, kind, added_bias="keep", **record)
        opened.callback(balance.watch(optimizer).detach)
    length = min(shape.tokens, 512)
    token_BS = torch.randint(512, (shape.tokens // length, length), device=device)
    return partial(step, model, optimizer, token_BS)


def step(model: Any, optimizer: torch.optim.Optimizer, token_BS: torch.Tensor) -> None:
    model(input_ids=token_BS, labels=token_BS).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def seconds_of(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        started = time.process_time()
        call()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started
