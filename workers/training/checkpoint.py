"""Checkpoints: always complete, made of tensors and plain values, and loaded without running code.

With a checkpoint a run continues as if it had never stopped. It contains the model, the optimizer,
the balancer state, the random generators and the step, which gives the position in the data.
"""

import logging
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from evenload.pipeline.records.fence import OPEN, Fence

logger = logging.getLogger(__name__)

NUM_KEPT = 2


class Checkpoint(NamedTuple):
    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    balancer: dict[str, Any]  # field name -> tensor
    cpu_rng: torch.Tensor
    cuda_rng: list[torch.Tensor]


def capture(
    step: int, model: nn.Module, optimizer: torch.optim.Optimizer, balancer_state: Any
) -> Checkpoint:
    return Checkpoint(
        step=step,
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        balancer=balancer_state._asdict(),
        cpu_rng=torch.get_rng_state(),
        cuda_rng=torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    )


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, balancer_state: Any
) -> Any:
    """Restores model, optimizer and random generators, and returns the balancer state."""
    model.load_state_dict(checkpoint.model)
    optimizer.load_state_dict(checkpoint.optimizer)
    torch.set_rng_state(checkpoint.cpu_rng.cpu())
    if checkpoint.cuda_rng:
        torch.cuda.set_rng_state_all([state.cpu() for state in checkpoint.cuda_rng])
    device = balancer_state.bias_LE.device
    return type(balancer_state)(**{k: v.to(device) for k, v in checkpoint.balancer.items()})


def save(directory: Path, checkpoint: Checkpoint, fence: Fence = OPEN) -> Path:
    """Writes `step-<n>.pt` under a temporary name, renames it and keeps only the newest two.

    Raises:   LeaseLost: another attempt owns the folder; it is left as it is
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{checkpoint.step:08d}.pt"
    with fence.staged(path) as staging:
        torch.save(checkpoint._asdict(), staging)
    for old in sorted(directory.glob("step-*.pt"))[:-NUM_KEPT]:
        old.unlink(missing_ok=True)
    return path


def set_damaged_aside(directory: Path) -> None:
    """Renames checkpoints that cannot be read, so that the one before them is the newest.

    Raises:   OSError: the folder cannot be read
    """
    while (path := newest(directory)) is not None and not _is_sound(path):
        path.rename(path.with_suffix(".damaged"))
        before = newest(directory)
        logger.warning(
            "%s is damaged; going on from %s", path, before.name if before else "the first step"
        )


def _is_sound(path: Path) -> bool:
    """Whether all checksums of the file are right."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except OSError:
        raise
    except Exception:  # noqa: BLE001  damaged bytes can be any error of the reader
        return False


def load(path: Path) -> Checkpoint:
    """A checkpoint on the CPU. `restore` puts each tensor where it belongs, and none twice."""
    return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))


def mapped(path: Path) -> Checkpoint:
    """A checkpoint on the CPU of which only what is used is read."""
    return Checkpoint(**torch.load(path, map_location="cpu", mmap=True, weights_only=True))


def newest(directory: Path) -> Path | None:
    """The last complete checkpoint, or None."""
    return max(directory.glob("step-*.pt"), default=None)
