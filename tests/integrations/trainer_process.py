"""One of two ranks of a Hugging Face Trainer, as a test starts them.

RANK=0 WORLD_SIZE=2 ... python trainer_process.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.integrations.test_trainer import biases, trainer, unpadded
from tests.integrations.texts import tiny


def main(folder: str) -> None:
    run = trainer(
        tiny(), Path(folder) / "out", "non-reentrant", ddp_backend="gloo",
        eval_strategy="steps", eval_steps=2,
    )  # fmt: skip
    run.train()
    found = {
        "counts": torch.stack(run.counts),
        "biases": biases(run),
        "tokens": unpadded(run, run.state.max_steps),
        "ranks": torch.distributed.get_world_size(),
        "wrapped": type(run.model_wrapped).__name__,
    }
    torch.save(found, Path(folder) / f"{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
