"""Asks for advice on somebody else's model, and trains the candidates to see whether it holds.

    python infra/examples/advise_attached.py                # minutes on two cores
    python infra/examples/advise_attached.py --quick        # does it run?
    python infra/examples/advise_attached.py --sweep DIR    # writes DIR/sweep.yaml instead of 3.

1. A small random Qwen3-MoE trains 100 steps on the Python standard library, unbalanced, while
   `evenload.attach` records a sample of its routers' scores.
2. `evenload advise` turns them into step sizes.
3. The same model is trained anew with step sizes around the advised ones, and with rules that have
   none, over several seeds. What differs by less than the seeds do is a tie.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import evenload
from evenload.pipeline.records.scores import read_recording
from evenload.workers.simulation.advice import advise, estimate

RECORDED_STEPS = 100
FACTORS = (1 / 16, 1 / 4, 1, 4, 16)  # of the advised step size
STEADY_SHARE = 0.4  # the last part of a run, over which loads are averaged
ADVISED = ("sign", "proportional")  # the rules with a step size that does not shrink


class Size(NamedTuple):
    """Sequences x tokens per step, and steps per run."""

    sequences: int = 8
    length: int = 128
    steps: int = 200
    seeds: int = 3


def tiny_qwen(seed: int) -> Qwen3MoeForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        moe_intermediate_size=64,
        num_experts=16,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=512,
    )
    return Qwen3MoeForCausalLM(config)


def stdlib_bytes() -> torch.Tensor:
    """The source of the standard library's top-level modules as one sequence of bytes."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8)


def batches(text: torch.Tensor, size: Size, seed: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        start = torch.randint(len(text) - size.length, (size.sequences,), generator=generator)
        yield torch.stack([text[i : i + size.length] for i in start.tolist()]).long()


def write_sweep(folder: Path, rules: dict[str, dict[str, Any]], size: Size) -> Path:
    """The same comparison for `evenload sweep run`, with the model's config beside it."""
    tiny_qwen(0).config.save_pretrained(folder / "model")
    train = {"steps": size.steps, "batch_sequences": size.sequences, "seq_len": size.length}
    sweep = {
        "name": "advised",
        "base": {
            "model": {"kind": "huggingface", "path": str(folder / "model")},
            "data": {"kind": "python_stdlib"},
            "train": {**train, "learning_rate": 2e-3, "schedule": "constant", "weight_decay": 0.01},
        },
        "axes": {"balancer": list(rules.values()), "train.seed": list(range(size.seeds))},
    }
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    return path


class Run(NamedTuple):
    max_vio: float  # mean over layers and the steady part
    loss: float  # nats per byte, mean over the steady part


def train(rule: Any, text: torch.Tensor, size: Size, seed: int, **options: Any) -> Run:
    model = tiny_qwen(seed)
    balance = evenload.attach(model, rule, added_bias="keep", **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    balance.watch(optimizer)
    violations, losses = [], []
    for _, token_BS in zip(range(size.steps), batches(text, size, seed), strict=False):
        loss = model(input_ids=token_BS, labels=token_BS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        violations.append(statistics.mean(balance.max_vio().values()))
        losses.append(loss.item())
    balance.detach()
    steady = -max(1, round(STEADY_SHARE * size.steps))
    return Run(statistics.mean(violations[steady:]), statistics.mean(losses[steady:]))


def advised_steps(folder: Path, steps: int) -> dict[str, float]:
    """The advised step size by rule: the geometric mean over layers."""
    recording = read_recording(folder)
    by_rule: dict[str, list[float]] = {}
    for layer in range(recording.score_NLTE.shape[1]):
        for entry in advise(estimate(recording, layer), steps):
            if entry.rule["kind"] in ADVISED and "schedule" not in entry.rule:
                by_rule.setdefault(entry.rule["kind"], []).append(entry.rule["step_size"])
    return {kind: statistics.geometric_mean(found) for kind, found in by_rule.items()}


def candidates(advised: dict[str, float]) -> dict[str, dict[str, Any]]:
    rules: dict[str, dict[str, Any]] = {"none": {"kind": "none"}}
    for kind, step in advised.items():
        for factor in FACTORS:
            value = float(f"{factor * step:.2g}")
            mark = " (advised)" if factor == 1 else ""
            rules[f"{kind} {value:g}{mark}"] = {"kind": kind, "step_size": value}
    return rules | {"self_tuned": {"kind": "self_tuned"}}


def outcome(runs: list[Run]) -> dict[str, float]:
    """Means over seeds, and their standard errors."""
    found = {}
    for name in Run._fields:
        values = [getattr(run, name) for run in runs]
        found[name] = statistics.mean(values)
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        found[f"{name}_error"] = spread / len(values) ** 0.5
    return found


def verdict(kind: str, outcomes: dict[str, dict[str, float]]) -> str:
    """What the runs say of a rule's advised step. Steps within two standard errors of the best
    one, of the difference, tie with it."""
    own = {name: found for name, found in outcomes.items() if name.split()[0] == kind}
    best = min(own, key=lambda name: own[name]["max_vio"])
    advised = next(name for name in own if name.endswith("(advised)"))
    tied = [name for name in own if name != best and _tie(own[best], own[name])]
    behind = own[advised]["max_vio"] - own[best]["max_vio"]
    if best == advised:
        return f"{kind}: confirmed" + (f", in a tie with {', '.join(tied)}" if tied else "")
    if advised in tied:
        return f"{kind}: not refuted, in a tie with {best}, which is {behind:.3f} lower"
    return f"{kind}: refuted, {best} is {behind:.3f} lower"


def _tie(best: dict[str, float], other: dict[str, float]) -> bool:
    error = (best["max_vio_error"] ** 2 + other["max_vio_error"] ** 2) ** 0.5
    return not other["max_vio"] - best["max_vio"] > 2 * error


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, one seed")
    parser.add_argument("--steps", type=int, default=Size().steps, help="steps of each run")
    parser.add_argument("--seeds", type=int, default=Size().seeds)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--sweep", type=Path, help="folder for a sweep of the candidates")
    asked = parser.parse_args()
    size = Size(steps=asked.steps, seeds=asked.seeds)
    if asked.quick:
        size = Size(sequences=2, length=64, steps=4, seeds=1)
    began, text = time.perf_counter(), stdlib_bytes()
    with tempfile.TemporaryDirectory() as folder:
        recorded = size._replace(steps=RECORDED_STEPS)
        train("none", text, recorded, seed=100, record_scores=folder)
        advised = advised_steps(Path(folder), size.steps)
    if asked.sweep is not None:
        return print(write_sweep(asked.sweep, candidates(advised), size))
    outcomes = {}
    for name, rule in candidates(advised).items():
        runs = [train(rule, text, size, seed) for seed in range(size.seeds)]
        outcomes[name] = outcome(runs)
        print(f"{name}: {outcomes[name]}", file=sys.stderr)
    document = {
        "size": size._asdict(),
        "advised": advised,
        "outcomes": outcomes,
        "verdicts": [verdict(kind, outcomes) for kind in advised],
        "seconds": round(time.perf_counter() - began, 1),
        "torch": torch.__version__,
    }
    print(json.dumps(document, indent=2) if asked.json else table(document))


def table(document: dict[str, Any]) -> str:
    lines = [f"{'rule':<28}{'MaxVio':>16}{'loss':>18}"]
    for name, found in document["outcomes"].items():
        vio = f"{found['max_vio']:.3f} ± {found['max_vio_error']:.3f}"
        loss = f"{found['loss']:.4f} ± {found['loss_error']:.4f}"
        lines.append(f"{name:<28}{vio:>16}{loss:>18}")
    return "\n".join([*lines, "", *document["verdicts"]])


if __name__ == "__main__":
    main()
