"""The Trainer of transformers with all its options at once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import evenload
from tests.integrations.texts import TOP_K, tiny

STEPS, STOP, PIECES, BATCH, LENGTH = 6, 4, 2, 4, 12
CHECKPOINTING = {
    "none": {},
    "reentrant": {"activation_checkpointing_kwargs": {"use_reentrant": True}},
    "non-reentrant": {"activation_checkpointing_kwargs": {"use_reentrant": False}},
}


class Tokens(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Sequences of different lengths, padded."""

    def __len__(self) -> int:
        return 2 * STEPS * PIECES * BATCH  # enough for two ranks

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        token_S = torch.randint(3, 64, (LENGTH,), generator=torch.Generator().manual_seed(place))
        mask_S = (torch.arange(LENGTH) < 5 + place % 8).long()
        return {"input_ids": token_S, "attention_mask": mask_S, "labels": token_S}


def trainer(model: nn.Module, folder: Path, checkpointing: str, **options: Any) -> Any:
    import transformers

    counts: list[Tensor] = []
    callback = evenload.TrainerCallback(
        added_bias="keep", recorder=lambda step, count_LE, bias_LE: counts.append(count_LE)
    )
    settings = {"max_steps": STEPS, "save_strategy": "no"} | CHECKPOINTING[checkpointing] | options
    run = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            output_dir=str(folder), per_device_train_batch_size=BATCH, use_cpu=True, report_to=[],
            gradient_accumulation_steps=PIECES, logging_steps=1, disable_tqdm=True,
            dataloader_pin_memory=False, activation_checkpointing=checkpointing != "none",
            **settings,
        ),
        train_dataset=Tokens(),
        eval_dataset=torch.utils.data.Subset(Tokens(), range(16)),
        callbacks=[callback],
    )  # fmt: skip
    run.counts, run.session = counts, callback
    return run


def biases(run: Any) -> Tensor:
    return torch.stack(list(run.session.balance.biases().values()))


def unpadded(run: Any, steps: int) -> list[int]:
    batches = iter(run.get_train_dataloader())
    pieces = [int(batch["attention_mask"].sum()) for batch in batches]
    return [sum(pieces[step * PIECES : (step + 1) * PIECES]) for step in range(steps)]


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "gpt_oss"])
def test_a_run_with_evaluations_that_stopped_equals_a_plain_one(
    kind: str, checkpointing: str, tmp_path: Path
) -> None:
    import transformers

    plain = trainer(tiny(kind), tmp_path / "plain", "none")
    plain.train()
    routers = len(plain.session.balance.layers)
    assert [int(count_LE.sum()) for count_LE in plain.counts] == [
        TOP_K * routers * tokens for tokens in unpadded(plain, STEPS)
    ]

    evaluating = {"eval_strategy": "steps", "eval_steps": 1}
    first = trainer(
        tiny(kind), tmp_path / "cut", checkpointing, save_strategy="steps", save_steps=STOP,
        **evaluating,
    )  # fmt: skip
    first.train()
    assert [entry for entry in first.state.log_history if "eval_loss" in entry]
    torch.testing.assert_close(biases(first), biases(plain), rtol=0, atol=1e-6)

    # The stock Trainer does not load experts whose names in files are others.
    place = tmp_path / "cut" / f"checkpoint-{STOP}"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(place).train()
    second = trainer(loaded, tmp_path / "cut", checkpointing, **evaluating)
    with nullcontext() if kind == "gpt_oss" else pytest.warns(match="the Trainer left .*experts"):
        second.train(resume_from_checkpoint=str(place))
    assert second.session.balance.steps == STEPS
    assert len(second.counts) == STEPS - STOP
    assert torch.equal(torch.stack(second.counts), torch.stack(first.counts[STOP:]))
    assert torch.equal(biases(second), biases(first))


def test_two_ranks_count_the_tokens_of_both(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": "2"}
    paths = {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    script = [sys.executable, str(Path(__file__).with_name("trainer_process.py")), str(tmp_path)]
    processes = [
        subprocess.Popen(
            script, env=os.environ | places | paths | {"RANK": rank, "LOCAL_RANK": rank}
        )
        for rank in "01"
    ]
    try:
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in "01")
    assert first["ranks"] == 2
    assert first["wrapped"] == "DistributedDataParallel"
    assert torch.equal(first["counts"], second["counts"])
    assert torch.equal(first["biases"], second["biases"])
    tokens = [sum(pair) for pair in zip(first["tokens"], second["tokens"], strict=True)]
    layers = first["counts"].shape[1]
    assert first["counts"].sum(dim=(1, 2)).tolist() == [TOP_K * layers * n for n in tokens]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
