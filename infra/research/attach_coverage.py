"""What attach can do with every MoE type of the installed transformers: `python -m
infra.research.attach_coverage [TYPE ...]` tries small random models, prints the table and, without
types, writes it to infra/results/attach_coverage.md. Exit code 1 if one is silently wrong.

Letters: B sequences, S tokens of a sequence, E experts, K top-k, N assignments.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import evenload
from evenload.workers.attach import AttachError, Balance
from infra.research.tiny_models import expert_types, tiny_model

RESULT = Path(__file__).parents[1] / "results/attach_coverage.md"
STEPS = 25
SEQUENCES, LENGTH, PADDING = 8, 32, 5


class Covered(NamedTuple):
    """A model type and what came out."""

    model_type: str
    status: str  # balanced, recorded only, refused
    routers: str  # balanced of all
    size: str
    bias: str
    unit: str
    max_vio: str  # of the worst layer, first and last step
    wrong: tuple[str, ...]  # what does not hold
    reason: str


def cover(model_type: str) -> Covered:
    model = tiny_model(model_type)
    try:
        balance = quietly_attached(model, "self_tuned")
        status = "balanced"
    except AttachError as error:
        reason = str(error)
        try:
            balance = quietly_attached(model, "none")
        except AttachError as refusal:
            return Covered(model_type, "refused", "-", "-", "-", "-", "-", (), str(refusal))
        return described(model_type, "recorded only", balance, *checked(model, balance), reason)
    return described(model_type, status, balance, *checked(model, balance), "")


def quietly_attached(model: nn.Module, rule: str) -> Balance:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        balance: Balance = evenload.attach(model, rule, added_bias="keep")
    return balance


def checked(model: nn.Module, balance: Balance) -> tuple[str, tuple[str, ...]]:
    """MaxVio of the first and the last of `STEPS` updates on one batch, and what does not hold."""
    wrong: list[str] = []
    token_BS, mask_BS = batch()
    balanced = [layer.name for layer in balance.layers if layer.kind != "recorded"]
    keys = [key for key in model.state_dict() if "evenload" not in key]
    with torch.no_grad():
        attached = model.eval()(input_ids=token_BS).logits
    violations = []
    for _ in range(STEPS):
        with experts_arguments(model) as used:
            model.train()(input_ids=token_BS, attention_mask=mask_BS)
        balance.step()
        violation = balance.max_vio()
        violations.append(max(violation[name] for name in balanced or violation))
        wrong += wrong_counts(balance, int(mask_BS.sum()), mask_BS, used)
    if balanced:
        wrong += ["the load got no more even"] if violations[-1] >= violations[0] else []
    added = all(layer.kind != "own" for layer in balance.layers)
    balance.detach()
    with torch.no_grad():
        detached = model.eval()(input_ids=token_BS).logits
    # Before the first step the added biases are zero, so the model is what it was.
    wrong += ["attaching changed outputs"] if added and not torch.equal(attached, detached) else []
    wrong += ["detach left something"] if list(model.state_dict()) != keys else []
    return f"{violations[0]:.2f} -> {violations[-1]:.2f}", tuple(dict.fromkeys(wrong))


def wrong_counts(balance: Balance, tokens: int, mask_BS: Tensor, used: list[Tensor]) -> list[str]:
    """Counts against the number of tokens, and against what the experts were called with."""
    wrong = []
    for layer, count_E in zip(balance.layers, balance.counts().values(), strict=True):
        if int(count_E.sum()) != tokens * layer.router.top_k:
            wrong.append(f"{int(count_E.sum())} assignments of {tokens} tokens in {layer.name}")
    whole = all(layer.router.real_experts == layer.router.num_experts for layer in balance.layers)
    if whole and len(used) == len(balance.layers):
        for expert_TK, count_E in zip(used, balance.counts().values(), strict=True):
            expert_N = expert_TK[mask_BS.flatten() > 0].flatten()
            if not torch.equal(expert_N.bincount(minlength=len(count_E)), count_E):
                wrong.append("experts were called with others than were counted")
    return wrong


def batch() -> tuple[Tensor, Tensor]:
    token_BS = torch.randint(3, 64, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(1))
    mask_BS = torch.ones_like(token_BS)
    mask_BS[0, -PADDING:] = 0
    return token_BS, mask_BS


@contextmanager
def experts_arguments(model: nn.Module) -> Iterator[list[Tensor]]:
    """The experts (T, K) that modules of experts are called with, in the order of their calls."""
    used: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dtype == torch.int64 and value.dim() == 2:
                used.append(value)
                return

    experts = [module for module in model.modules() if type(module).__name__.endswith("Experts")]
    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in experts]
    try:
        yield used
    finally:
        for handle in handles:
            handle.remove()


def described(
    model_type: str, status: str, balance: Balance, vio: str, wrong: tuple[str, ...], reason: str
) -> Covered:
    layers = balance.layers
    balanced = [layer for layer in layers if layer.kind != "recorded"]
    shown = (balanced or layers)[0]
    router = shown.router
    size = f"{router.top_k} of {router.num_experts}"
    if router.real_experts < router.num_experts:
        size += f" ({router.num_experts - router.real_experts} without computation)"
    bias = "-" if shown.home is None else ("added" if shown.kind == "added" else shown.home.name)
    if status == "balanced" and len(balanced) < len(layers):
        reason = next(f"{layer.name} {layer.reason}" for layer in layers if layer.reason)
    routers = f"{len(balanced)} of {len(layers)}"
    return Covered(model_type, status, routers, size, bias, router.unit, vio, wrong, reason)


def table(rows: list[Covered]) -> str:
    import transformers

    counted = {status: sum(row.status == status for row in rows) for status in STATUSES}
    lines = [
        "# What attach can do with the MoE types of transformers",
        "",
        f"transformers {transformers.__version__}, torch {torch.__version__}: every causal "
        "language model type with experts, as a small random model.",
        f"{', '.join(f'{number} {status}' for status, number in counted.items())}; silently wrong: "
        f"{sum(bool(row.wrong) for row in rows)}.",
        "",
        f"MaxVio: worst layer, first and last of {STEPS} updates of `self_tuned` on one batch of "
        f"{SEQUENCES * LENGTH - PADDING} tokens.",
        "In every step the counts are tokens x K, padding left out, and those that the experts "
        "were called with.",
        "",
        "| type | status | routers | top-k | bias | unit | MaxVio | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        remark = "; ".join([*row.wrong, *([row.reason] if row.reason else [])])
        cells = (*row[:7], remark.replace("|", "/"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "Written by `python -m infra.research.attach_coverage`.", ""])


STATUSES = ("balanced", "recorded only", "refused")


def main(types: list[str]) -> int:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = [cover(model_type) for model_type in types or expert_types()]
    print(table(rows))
    if not types:
        RESULT.write_text(table(rows))
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
