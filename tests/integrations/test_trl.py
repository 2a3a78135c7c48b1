"""TRL's trainers: what the reference model, generation and padding see does not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import evenload
from tests.integrations.texts import TOP_K, stored, text, tokenizer

STEPS, BATCH = 3, 4


class Run:
    """A trainer with our callback, and what it counted."""

    def __init__(self, folder: Path, kind: str = "qwen3_moe") -> None:
        self.folder = folder
        self.model = stored(folder / "model", kind)
        self.counts: list[Tensor] = []
        self.callback = evenload.TrainerCallback(
            added_bias="keep", recorder=lambda step, count_LE, bias_LE: self.counts.append(count_LE)
        )

    def options(self) -> dict[str, Any]:
        return {
            "output_dir": str(self.folder / "out"),
            "max_steps": STEPS,
            "per_device_train_batch_size": BATCH,
            "use_cpu": True,
            "bf16": False,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "logging_steps": 1,
        }

    def parts(self) -> dict[str, Any]:
        return {"processing_class": tokenizer(), "callbacks": [self.callback]}

    def train(self, trainer: Any) -> list[int]:
        """Returns the tokens that were counted in each step."""
        trainer.train()
        balance = self.callback.balance
        assert balance is not None
        assert balance.steps == trainer.state.global_step == STEPS
        assert all(bias_E.any() for bias_E in balance.biases().values())
        return [int(count_LE.sum()) // (TOP_K * len(balance.layers)) for count_LE in self.counts]

    def is_left_alone_by(self, trainer: Any) -> None:
        """Evaluation and generation after training neither count nor move."""
        balance = self.callback.balance
        assert balance is not None
        before = balance.biases() | balance.counts()
        before = {name: value.clone() for name, value in before.items()}
        trainer.evaluate()
        with torch.no_grad():
            self.model.train().generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, use_cache=True)
        assert balance.steps == STEPS
        after = balance.biases() | balance.counts()
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def tokens(trainer: Any) -> list[int]:
    """Unpadded tokens of each step, from TRL's own log of their running total."""
    total = [int(entry["num_tokens"]) for entry in trainer.state.log_history if "loss" in entry]
    return [now - before for now, before in zip(total, [0, *total], strict=False)]


def lora(**options: Any) -> Any:
    import peft

    return peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        {"loss_type": "nll"},
        {"packing": True, "max_length": 24},
    ],
    ids=["plain", "checkpointing", "nll", "packed"],
)
@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3"])
def test_sft_counts_the_unpadded_tokens(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    import trl
    from datasets import Dataset

    run = Run(tmp_path, kind)
    rows = Dataset.from_list([{"text": text(i, 5 + i % 7)} for i in range(64)])
    settings = {"gradient_checkpointing": False, "max_length": 64} | options
    trainer = trl.SFTTrainer(
        run.model, args=trl.SFTConfig(**run.options(), **settings), train_dataset=rows,
        eval_dataset=rows, **run.parts(),
    )  # fmt: skip
    assert run.train(trainer) == tokens(trainer)
    run.is_left_alone_by(trainer)


def preferences() -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"prompt": text(i, 3), "chosen": " " + text(i, 4 + i % 3), "rejected": " " + text(i, 2)}
            for i in range(40)
        ]
    )


@pytest.mark.parametrize("case", ["reference model", "adapter", "reference in advance"])
def test_dpo_does_not_count_the_reference(case: str, tmp_path: Path) -> None:
    import trl

    run = Run(tmp_path)
    settings = {"precompute_ref_log_probs": case == "reference in advance", "max_length": 64}
    trainer = trl.DPOTrainer(
        run.model, args=trl.DPOConfig(**run.options(), **settings), train_dataset=preferences(),
        eval_dataset=preferences(), peft_config=lora() if case == "adapter" else None,
        **run.parts(),
    )  # fmt: skip
    assert (trainer.ref_model is not None) == (case == "reference model")
    assert run.train(trainer) == tokens(trainer)
    run.is_left_alone_by(trainer)


@pytest.mark.parametrize("case", ["reference model", "adapter", "several iterations"])
def test_grpo_counts_neither_generation_nor_the_reference(case: str, tmp_path: Path) -> None:
    import trl
    from datasets import Dataset

    run = Run(tmp_path)
    rows = Dataset.from_list([{"prompt": text(i, 3 + i % 4)} for i in range(40)])
    generated: list[int] = []

    def reward(prompts: Any, completions: Any, completion_ids: Any, **others: Any) -> Any:
        lengths = [len(ids) for ids in completion_ids]
        generated.append(sum(lengths) + sum(len(prompt.split()) for prompt in prompts))
        return [float(sum(ids) % 7) for ids in completion_ids]

    iterations = 3 if case == "several iterations" else 1
    trainer = trl.GRPOTrainer(
        run.model, reward_funcs=reward, train_dataset=rows, eval_dataset=rows,
        peft_config=lora() if case == "adapter" else None,
        args=trl.GRPOConfig(
            **run.options(), num_generations=2, max_completion_length=6, beta=0.1,
            num_iterations=iterations, per_device_eval_batch_size=BATCH,
        ), **run.parts(),
    )  # fmt: skip
    assert (trainer.ref_model is not None) == (case != "adapter")
    expected = run.train(trainer)
    assert expected == [each for each in generated for _ in range(iterations)][:STEPS]
    run.is_left_alone_by(trainer)


def test_an_adapter_that_is_trained_with_a_stop_equals_one_without(tmp_path: Path) -> None:
    import trl
    from datasets import Dataset

    rows = Dataset.from_list([{"text": text(i, 5 + i % 7)} for i in range(64)])

    def trainer(folder: Path, stopped: bool) -> tuple[Run, Any]:
        run = Run(folder)
        saving = {"save_strategy": "steps", "save_steps": 2} if stopped else {}
        return run, trl.SFTTrainer(
            run.model, args=trl.SFTConfig(**run.options() | saving, max_length=64),
            train_dataset=rows, peft_config=lora(target_parameters=["experts.down_proj"]),
            **run.parts(),
        )  # fmt: skip

    whole, plain = trainer(tmp_path / "whole", stopped=False)
    plain.train()
    _, first = trainer(tmp_path / "cut", stopped=True)
    first.train()
    checkpoint = tmp_path / "cut" / "out" / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").exists()
    again, second = trainer(tmp_path / "cut", stopped=True)
    second.train(resume_from_checkpoint=str(checkpoint))
    sessions = [run.callback.balance for run in (whole, again)]
    assert [session.steps for session in sessions if session is not None] == [STEPS, STEPS]
    before, after = (list(session.biases().values()) for session in sessions if session is not None)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert torch.equal(torch.stack(again.counts), torch.stack(whole.counts[2:]))
