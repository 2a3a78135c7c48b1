"""The record of an attached run in a home: what dashboard, report and client then show.

A step costs the training one copy to the host, which it does not wait for. A thread writes it. One
run is recorded for each group of layers with equal numbers of experts and the same top-k, because
loads over a fair share can only be compared within such a group.

Letters: L layers of a session, E experts.
"""

import atexit
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evenload.pipeline.errors import SpecError
from evenload.pipeline.extras import require
from evenload.pipeline.records.recorded_runs import RecordedRun
from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.run_writer import RunWriter, pending_steps, recorded_step
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.pipeline.spec.load_shape import LoadShape
from evenload.workers.attach.attachment import Layer
from evenload.workers.attach.background import Background
from evenload.workers.attach.errors import AttachError
from evenload.workers.attach.options import Asked
from evenload.workers.attach.routers import short_names

TOLD = ("loss", "learning_rate", "grad_norm")  # what `Balance.log` takes
LONGEST = 2**31  # steps; a larger plan means that nobody knows


class _Group(NamedTuple):
    name: str  # of the run
    rows: list[int]
    shape: LoadShape
    unit: str


@dataclass
class _Step:
    step: int
    planned_steps: int | None
    host: Tensor  # counts (L, E), then biases (L, E), all as int32
    copied: Any  # CUDA event after which `host` is filled; None: it is
    seconds: float
    told: dict[str, Any] = field(default_factory=dict)


class RunRecord:
    """Raises: AttachError: what is asked for cannot be"""

    def __init__(self, asked: Asked, rule: BalancerSpec, layers: Sequence[Layer]) -> None:
        name = asked.name
        settings = Settings() if asked.home is None else Settings(home=Path(asked.home))
        self._home, self._name, self._rule = settings.root, name, rule
        self._groups = _groups(name, layers)
        self.runs: list[RecordedRun] = []  # what is recorded so far; empty before the first step
        self._writers: list[RunWriter] = []  # by group; none before the first step and when closed
        self._noted = 0  # lost steps that are in the record
        self._held: _Step | None = None  # waits for what is told about it
        self._last_step, self._last_time = 0, math.nan
        most = pending_steps(len(layers), max(layer.router.num_experts for layer in layers))
        self._disk = Background[_Step](f"recording {name!r}", self._write, most)
        self._mlflow: Any = _mlflow_log() if asked.mlflow else None
        what = f"logging {name!r} to MLflow"
        self._server = Background[Any](what, lambda items: self._mlflow.log(items), most)
        atexit.register(self.close)

    def end_step(
        self, step: int, count_LE: Tensor, bias_LE: Tensor, planned_steps: int | None
    ) -> None:
        """Takes a step. What is told from now on, until the next one, is about it."""
        self._release()
        now = time.monotonic()
        packed = torch.stack([count_LE.to(torch.int32), bias_LE.float().view(torch.int32)])
        host, copied = packed, None
        if packed.is_cuda:
            host = torch.empty(packed.shape, dtype=torch.int32, pin_memory=True)
            host.copy_(packed, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record()
        planned_steps = planned_steps if planned_steps and planned_steps < LONGEST else None
        self._held = _Step(step, planned_steps, host, copied, now - self._last_time)
        self._last_time = now

    def tell(self, figures: Mapping[str, Any]) -> None:
        """Raises: AttachError: a figure that is not recorded"""
        unknown = sorted(figures.keys() - set(TOLD))
        if unknown:
            raise AttachError(f"log({unknown[0]}=) is not recorded; {', '.join(TOLD)} are")
        if self._held is not None:
            told = {n: v.detach() if isinstance(v, Tensor) else v for n, v in figures.items()}
            self._held.told |= told

    def close(self) -> None:
        """Writes what is left, and that the run has ended. It goes on with the next step."""
        self._release()
        if self._disk.close():
            self._close_writers()
        self._server.close()

    def _close_writers(self) -> None:
        """Another process may go on with the runs, so only what could not be written is kept."""
        for writer in self._writers:
            writer.close()
        self._note_runs()
        if not any(writer.unwritten for writer in self._writers):
            self._writers = []

    def _note_runs(self) -> None:
        self.runs = [writer.run for writer in self._writers] or self.runs

    def __str__(self) -> str:
        where = ", ".join(str(run.folder) for run in self.runs) or str(self._home)
        lost = self._disk.lost - self._noted + sum(run.dropped_steps for run in self.runs)
        said = f"; {self._disk.failures} failures" if self._disk.failures else ""
        return f"recorded as {self._name!r} in {where}{said}" + (
            f", {lost} steps lost" if lost else ""
        )

    def _release(self) -> None:
        if self._held is None:
            return
        try:
            if self._mlflow is not None:
                self._mlflow.find()
        except Exception as error:  # noqa: BLE001 - MLflow must not end the training
            self._server.complain(repr(error))
        self._disk.put(self._held)
        self._held = None

    def _write(self, steps: Sequence[_Step]) -> None:
        """In the thread of the disk."""
        records_G: list[list[StepRecord]] = [[] for _ in self._groups]
        for step in steps:
            if step.step <= self._last_step or not self._writers:
                self._flush(records_G)
                self._open(step)
            self._last_step = step.step
            for records, group in zip(records_G, self._groups, strict=True):
                records.append(_record(step, group))
        self._flush(records_G)

    def _flush(self, records_G: list[list[StepRecord]]) -> None:
        if not self._writers:
            return
        lost = self._disk.lost - self._noted
        self._noted += lost
        for writer, records in zip(self._writers, records_G, strict=True):
            errors = writer.run.errors
            writer.write(records, lost)
            if writer.run.errors > errors:
                self._disk.complain(f"{writer.run.folder} cannot be written")
            if self._mlflow is not None:
                shape = writer.run.shape
                kind = f"/top{shape.top_k}of{shape.num_experts}" if len(self._groups) > 1 else ""
                for record in records:
                    self._server.put((f"evenload{kind}", writer.run, record))
            records.clear()
        self._note_runs()

    def _open(self, first: _Step) -> None:
        """Begins new runs with step 1; a later first step goes on with those of this name."""
        self._close_writers()
        self._writers = []
        about = {"source": "attach", "balancer": self._rule, "planned_steps": first.planned_steps}
        self._writers = [
            RunWriter.resume(
                self._home, first.step, group.name, shape=group.shape, unit=group.unit, **about
            )
            for group in self._groups
        ]


def _groups(name: str, layers: Sequence[Layer]) -> list[_Group]:
    """Classes that compute nothing are left out: experts are balanced among themselves."""
    rows: dict[tuple[int, int, str], list[int]] = {}
    for row, layer in enumerate(layers):
        router = layer.router
        rows.setdefault((router.real_experts, router.top_k, router.unit), []).append(row)
    names = short_names([layer.name for layer in layers])
    found = []
    for (experts, top_k, unit), own in rows.items():
        kept = tuple(names[row] for row in own)
        shape = LoadShape(layers=kept, num_experts=experts, top_k=top_k)
        kind = f" (top {top_k} of {experts}, {unit})" if len(rows) > 1 else ""
        found.append(_Group(name + kind, own, shape, unit))
    return found


def _record(step: _Step, group: _Group) -> StepRecord:
    if step.copied is not None:
        step.copied.synchronize()
    count_LE, bias_LE = step.host[:, group.rows, : group.shape.num_experts].numpy()
    told = {name: float(value) for name, value in step.told.items()}
    bias_LE = bias_LE.copy().view(np.float32)
    return recorded_step(step.step, count_LE, bias_LE, seconds=step.seconds, **told)


def _mlflow_log() -> Any:
    """It is imported by name: nothing else of this room may need MLflow."""
    try:
        require("mlflow")
    except SpecError as error:
        raise AttachError(f"mlflow=True: {error}") from None
    return import_module("evenload.pipeline.records.active_mlflow_run").ActiveRun()
