"""Balances and records a plain PyTorch loop. Watch it with `evenload dashboard`, page Run.

python infra/examples/attach_loop.py [STEPS]
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

import evenload

STEPS, SEQUENCES, LENGTH, WORDS = 200, 8, 64, 256  # words are bytes


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
    model = Qwen3MoeForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    balance = evenload.attach(
        model, "self_tuned", added_bias="keep", name="attach-loop", total_steps=steps
    )
    balance.watch(optimizer)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = torch.frombuffer(
        bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8
    )
    for _ in range(steps):
        starts = torch.randint(len(text) - LENGTH, (SEQUENCES,)).tolist()
        token_BS = torch.stack([text[start : start + LENGTH] for start in starts]).long()
        loss = model(input_ids=token_BS, labels=token_BS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        balance.log(loss=loss)
    balance.finish()
    print(balance)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
