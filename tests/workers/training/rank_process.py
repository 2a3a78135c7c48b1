"""One of several processes that train together; a test starts them.

    python rank_process.py JOBS RANK SIZE

JOBS is a JSON file: {"home": ..., "rendezvous": ..., "runs": [{"digest", "spec", "stop_at"}, ...],
"attached": names of cases of an attached model}. Writes <home>/<digest>-rank<r>.npz: the bias of
every step, and a checksum of all weights after it; and <home>/<case>-rank<r>.pt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from evenload.pipeline.records.run import EvalRecord, RunIdentity, StepRecord
from evenload.pipeline.records.shards import LoadLogSink, newest_checkpoint
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress
from evenload.workers.training import loop
from evenload.workers.training.loop import train
from evenload.workers.training.ranks import Ranks
from evenload.workers.training.step import train_step
from tests.workers.attach.rank_process import CASES


class NoSink:
    errors = 0

    def start(self, run: RunIdentity) -> None: ...

    def log_steps(self, records: Sequence[StepRecord]) -> None: ...

    def log_eval(self, record: EvalRecord) -> None: ...

    def checkpoint(self) -> None:
        raise AssertionError("only the first rank writes checkpoints")

    def close(self) -> None: ...


def run_one(ranks: Ranks, settings: Settings, digest: str, spec: TrialSpec, stop_at: int) -> None:
    biases, checksums = [], []

    def watched(trainee: Any, state: Any, *args: Any) -> Any:
        output, after = train_step(trainee, state, *args)
        biases.append(after.bias_LE.numpy().copy())
        weights = torch.cat([p.detach().flatten() for p in trainee.model.parameters()])
        checksums.append(int(weights.view(torch.int32).long().sum()))
        return output, after

    def report(progress: Progress) -> Command:
        """Only the first rank gets the command to stop."""
        return Command.STOP if ranks.is_first and progress.step == stop_at else Command.CONTINUE

    sink = LoadLogSink(settings.trial_dir(digest)) if ranks.is_first else NoSink()
    identity = RunIdentity(
        digest=digest,
        name="t",
        sweep_id=None,
        attempt=1,
        spec=spec.model_dump(mode="json"),
        resumed_from_step=newest_checkpoint(settings.trial_dir(digest)),
    )
    with patch.object(loop, "train_step", watched):
        outcome = train(
            spec,
            settings=settings,
            digest=digest,
            sink=sink,
            report=report,
            run=identity,
            ranks=ranks,
        )
    sink.close()
    np.savez(
        settings.root / f"{digest}-rank{ranks.rank}.npz",
        bias_SLE=np.stack(biases),
        checksum_S=np.array(checksums),
        max_vio=outcome.result.get("max_vio", np.nan),
    )


def main(jobs_file: str, rank: str, size: str) -> None:
    jobs = json.loads(Path(jobs_file).read_text())
    ranks = Ranks(int(rank), int(size))
    rendezvous = Path(jobs["rendezvous"]).as_uri()
    dist.init_process_group("gloo", rendezvous, rank=ranks.rank, world_size=ranks.size)
    settings = Settings(home=Path(jobs["home"]))
    for run in jobs["runs"]:
        spec = TrialSpec.model_validate(run["spec"])
        run_one(ranks, settings, run["digest"], spec, run["stop_at"])
        dist.barrier()  # the next run may resume from a checkpoint of the first rank
    for case in jobs["attached"]:
        torch.save(CASES[case](ranks.rank), settings.root / f"{case}-rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
