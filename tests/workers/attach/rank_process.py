"""One of two ranks that train an attached model together, as a test starts them.

    python rank_process.py FOLDER RANK

Every case writes FOLDER/<case>-<rank>.pt. Letters: B sequences, S tokens of a sequence.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import (
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

import evenload
from evenload.pipeline.records.scores import read_recording
from evenload.workers.attach import AttachError, Balance
from tests.workers.attach.models import PROBE, Layer, Model, model, moe_layer, routers_of, tokens

STEPS, PIECES = 4, 2


def batch(step: int, piece: int, rank: int) -> tuple[Tensor, Tensor]:
    """Tokens and mask; the second rank's last piece is shorter, and all have some padding."""
    sequences = 1 if rank == 1 and piece == PIECES - 1 else 4
    token_BS = tokens(sequences, 16, seed=100 * step + 10 * piece + rank)
    mask_BS = torch.ones_like(token_BS)
    mask_BS[0, 16 - 3 * (rank + 1) :] = 0
    return token_BS, mask_BS


def result(balance: Balance, counts: list[Tensor]) -> dict[str, Any]:
    return {"counts": torch.stack(counts), "biases": stacked(balance), "steps": balance.steps}


def stacked(balance: Balance) -> Tensor:
    return torch.stack(list(balance.biases().values()))


def attach(model: Any, rule: Any = "self_tuned", **options: Any) -> tuple[Balance, list[Tensor]]:
    counts: list[Tensor] = []
    balance: Balance = evenload.attach(
        model,
        rule,
        probe=PROBE,
        added_bias="keep",
        recorder=lambda step, count_LE, bias_LE: counts.append(count_LE),
        **options,
    )
    return balance, counts


def data_parallel(rank: int, rate: float, own_bias: bool = False) -> dict[str, Any]:
    """DDP with accumulation: gradients are summed at the last piece only."""
    trained = model(own_bias=own_bias)
    balance, counts = attach(trained)
    wrapped = DistributedDataParallel(trained)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=rate)
    balance.watch(optimizer)
    for step in range(STEPS):
        for piece in range(PIECES - 1):
            with wrapped.no_sync():
                loss(wrapped, *batch(step, piece, rank)).backward()
        loss(wrapped, *batch(step, PIECES - 1, rank)).backward()
        optimizer.step()
        optimizer.zero_grad()
    weights = torch.cat([p.detach().flatten() for p in trained.parameters()])
    return result(balance, counts) | {"weights": weights}


def loss(model: Any, token_BS: Tensor, mask_BS: Tensor) -> Tensor:
    return model(token_BS, attention_mask=mask_BS).float().logsumexp(dim=-1).mean()


def sharded(rank: int, attach_first: bool, own_bias: bool) -> dict[str, Any]:
    """FSDP2 with parameters in bfloat16."""
    trained = model(own_bias=own_bias)
    if attach_first:
        balance, counts = attach(trained)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for layer in trained.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(trained, mesh=mesh, mp_policy=policy)
    if not attach_first:
        balance, counts = attach(trained)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    balance.watch(optimizer)
    for step in range(STEPS):
        for piece in range(PIECES):
            loss(trained, *batch(step, piece, rank)).backward()
        optimizer.step()
        optimizer.zero_grad()
    dtypes = {str(b.dtype) for name, b in trained.named_buffers() if "bias" in name}
    found = result(balance, counts) | {"dtypes": dtypes}
    balance.detach()
    found["left"] = sorted(n for n, _ in trained.named_buffers())
    found["classes"] = sorted({type(module).__name__ for module in trained.modules()})
    return found


def sharded_by_fsdp1(rank: int, own_bias: bool, **policy: Any) -> dict[str, Any]:
    """The older FullyShardedDataParallel, with parameters in bfloat16."""
    trained = model(own_bias=own_bias)
    balance, counts = attach(trained)
    wrapped = FullyShardedDataParallel(
        trained,
        auto_wrap_policy=ModuleWrapPolicy({Layer}),
        device_id=torch.device("cpu"),
        mixed_precision=MixedPrecision(param_dtype=torch.bfloat16, **policy),
    )
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    balance.watch(optimizer)
    for step in range(STEPS):
        for piece in range(PIECES):
            loss(wrapped, *batch(step, piece, rank)).backward()
        optimizer.step()
        optimizer.zero_grad()
    dtypes = {str(b.dtype) for name, b in trained.named_buffers() if "bias" in name}
    found = result(balance, counts) | {"dtypes": dtypes}
    balance.detach()
    found["left"] = sorted(n.replace(WRAPPER, "") for n, _ in trained.named_buffers())
    found["classes"] = sorted({type(module).__name__ for module in trained.modules()})
    return found


WRAPPER = "_fsdp_wrapped_module."


def sharded_bias(rank: int) -> dict[str, Any]:
    """A bias that is a parameter and that FSDP2 has sharded before attach came."""
    trained = model(own_bias=True)
    for router in routers_of(trained).values():
        bias_E = router._buffers.pop("e_score_correction_bias")
        router.e_score_correction_bias = torch.nn.Parameter(bias_E, requires_grad=False)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for layer in trained.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(trained, mesh=mesh)
    return error_of(lambda: attach(trained))


def joined(rank: int) -> dict[str, Any]:
    """The second rank has fewer steps, and Join of DDP answers for it."""
    trained = model()
    balance, _ = attach(trained)
    wrapped = DistributedDataParallel(trained)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    balance.watch(optimizer)

    def train() -> None:
        with wrapped.join():
            for step in range(4 - 2 * rank):
                loss(wrapped, *batch(step, 0, rank)).backward()
                optimizer.step()

    return error_of(train)


def recorded(rank: int) -> dict[str, Any]:
    """Both ranks are asked for a record of the same name in the same home."""
    trained = model()
    balance, counts = attach(trained, "sign", name="ranks", home=Path(sys.argv[1]) / "home")
    for step in range(STEPS):
        loss(trained, *batch(step, 0, rank)).backward()
        balance.step()
        balance.log(loss=1.0)
    balance.finish()
    return result(balance, counts)


def one_rank_idle(rank: int) -> dict[str, Any]:
    """In odd steps the second rank has padding only, in even ones nothing at all."""
    trained = model()
    balance, counts = attach(trained)
    all_reduce = Mock(wraps=dist.all_reduce)
    with patch.object(dist, "all_reduce", all_reduce):
        _steps_of_one(rank, trained, balance)
    return result(balance, counts) | {"sums": all_reduce.call_count}


def _steps_of_one(rank: int, trained: Model, balance: Balance) -> None:
    for step in range(STEPS):
        token_BS, mask_BS = batch(step, 0, 0)
        if rank == 0:
            trained(token_BS, attention_mask=mask_BS)
        elif step % 2:
            trained(token_BS, attention_mask=torch.zeros_like(mask_BS))
        balance.step()


def opposite_skew(rank: int) -> dict[str, Any]:
    """Each rank uses one half of the experts, the other rank the other half."""
    torch.manual_seed(0)
    trained = Model([moe_layer(4, 2)])
    balance, counts = attach(trained, "none")
    gate: Any = trained.layers[0].get_submodule("mlp.gate")
    with torch.no_grad():
        gate.weight.copy_(torch.eye(16)[:4] * 50)
        trained.embed.weight.zero_()
        trained.embed.weight[:, 2 * rank] = 5.0
        trained.embed.weight[:, 2 * rank + 1] = 4.0
    trained(tokens())
    balance.step()
    return result(balance, counts) | {"max_vio": list(balance.max_vio().values())}


def own_groups(rank: int) -> dict[str, Any]:
    """Every rank alone in a group: as if each were a stage with routers of its own."""
    groups = [dist.new_group([each]) for each in range(2)]
    trained = model(1 + rank)
    balance, counts = attach(trained, group=groups[rank])
    trained(tokens())
    balance.step()
    return result(balance, counts)


def refused(rank: int, **options: Any) -> dict[str, Any]:
    return error_of(lambda: attach(model(1 + rank), **options))


def error_of(call: Callable[[], object]) -> dict[str, Any]:
    try:
        call()
    except AttachError as error:
        return {"error": str(error)}
    return {"error": ""}


def scores(rank: int) -> dict[str, Any]:
    """Only the first rank records; the tokens of a step are those of both."""
    trained = model()
    with tempfile.TemporaryDirectory() as folder:
        balance, counts = attach(trained, record_scores=folder)
        trained(tokens(seed=rank))
        balance.step()
        try:
            recording = read_recording(balance.write_scores())
        except AttachError as error:
            return result(balance, counts) | {"error": str(error)}
        shape = list(recording.score_NLTE.shape)
        return result(balance, counts) | {"shape": shape, "step_tokens": recording.step_tokens}


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "ddp": lambda rank: data_parallel(rank, 0.0),
    "ddp-own": lambda rank: data_parallel(rank, 0.0, own_bias=True),
    "ddp-learning": lambda rank: data_parallel(rank, 0.1),
    "fsdp-before": lambda rank: sharded(rank, attach_first=True, own_bias=False),
    "fsdp-after": lambda rank: sharded(rank, attach_first=False, own_bias=False),
    "fsdp-own": lambda rank: sharded(rank, attach_first=True, own_bias=True),
    "fsdp1": lambda rank: sharded_by_fsdp1(rank, own_bias=False),
    "fsdp1-own": lambda rank: sharded_by_fsdp1(rank, own_bias=True),
    "fsdp1-cast": lambda rank: error_of(
        lambda: sharded_by_fsdp1(rank, own_bias=True, buffer_dtype=torch.bfloat16)
    ),
    "fsdp-parameter": sharded_bias,
    "idle": one_rank_idle,
    "opposite": opposite_skew,
    "groups": own_groups,
    "scores": scores,
    "recorded": recorded,
    "disagree": refused,
    "joined": joined,
    "no-router": lambda rank: refused(0, routers=[] if rank else None),
}


def main(folder: str, rank: str) -> None:
    rendezvous = (Path(folder) / "rendezvous").as_uri()
    dist.init_process_group("gloo", rendezvous, rank=int(rank), world_size=2)
    for name, case in CASES.items():
        torch.save(case(int(rank)), Path(folder) / f"{name}-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
