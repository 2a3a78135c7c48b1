"""Balances and records a training by the Hugging Face Trainer. Watch it with `evenload dashboard`.

python infra/examples/attach_trainer.py [STEPS]
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM, Trainer, TrainingArguments

import evenload

STEPS, LENGTH, WORDS = 100, 64, 256


class Source(Dataset[dict[str, torch.Tensor]]):
    """The source of Python's standard library, as bytes."""

    def __init__(self) -> None:
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        text = bytearray(b"".join(file.read_bytes() for file in files))
        self.text = torch.frombuffer(text, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.text) // LENGTH

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        token_S = self.text[place * LENGTH : (place + 1) * LENGTH].long()
        return {"input_ids": token_S, "labels": token_S}


def main(steps: int) -> None:
    config = Qwen3MoeConfig(
        vocab_size=WORDS,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        moe_intermediate_size=64,
        num_experts=16,
        num_experts_per_tok=2,
        norm_topk_prob=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=2e-3,
            logging_steps=5,
            save_strategy="no",
            report_to=[],
        )
        balancing = evenload.TrainerCallback("self_tuned", added_bias="keep", name="attach-trainer")
        model = Qwen3MoeForCausalLM(config)
        Trainer(model, arguments, train_dataset=Source(), callbacks=[balancing]).train()
    print(balancing.balance)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
