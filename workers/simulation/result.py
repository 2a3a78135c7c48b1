"""The result of a simulation: one row per stream and rule, and the history of every step.

Letters: S seeds, N steps.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evenload.pipeline.spec.balancers import BalancerSpec
from evenload.pipeline.spec.simulation import SimulationSpec
from evenload.workers.simulation.regret import Regret
from evenload.workers.simulation.theory_checks import Verdict

BALANCED = 2.0  # a load counts as balanced below this multiple of the sampling floor

COLUMNS = {
    "stream": "stream",
    "rule": "rule",
    "max_vio": "steady MaxVio",
    "max_vio_error": "±",
    "floor": "floor",
    "ratio": "of the floor",
    "worst_step": "worst steady step",
    "idle_frac": "idle",
    "steps_to_balance": "steps to 2x floor",
    "recovery_steps": "after the jump",
    "over_best": "over the best",
}


@dataclass(frozen=True, slots=True)
class Run:
    stream: str
    rule: BalancerSpec
    load_NS3: NDArray[np.float32]  # max A/L, min A/L, share of empty experts
    floor: float  # sampling floor: MaxVio of random choices of independent tokens
    jump: int | None  # index of the step at which preferences change

    @property
    def max_vio_NS(self) -> NDArray[np.float32]:
        return self.load_NS3[..., 0] - 1

    def row(self, steady_steps: int) -> dict[str, Any]:
        """The figures of COLUMNS except the comparison; None for an event that never happened."""
        steady_NS = self.max_vio_NS[-steady_steps:]
        by_seed_S = steady_NS.mean(axis=0)
        mean, limit, jump = float(by_seed_S.mean()), BALANCED * self.floor, self.jump
        recovery = None if jump is None else steps_until(self.max_vio_NS[jump:], limit)
        return {
            "stream": self.stream,
            "rule": self.rule.label,
            "kind": self.rule.kind,
            "max_vio": mean,
            "max_vio_error": _standard_error(by_seed_S),
            "floor": self.floor,
            "ratio": mean / self.floor,
            "worst_step": float(steady_NS.max()),
            "idle_frac": float(self.load_NS3[-steady_steps:, :, 2].mean()),
            "steps_to_balance": steps_until(self.max_vio_NS[:jump], limit),
            "recovery_steps": recovery,
        }


class Finding(NamedTuple):
    stream: str
    rule: str
    verdicts: tuple[Verdict, ...]
    regret: Regret

    def rows(self) -> list[dict[str, str]]:
        """One row per statement: stream, rule, statement, finding, figure."""
        entries = [(v.statement, v.finding, v.figure) for v in self.verdicts]
        entries.append(("regret against the best fixed bias", self.regret.finding, ""))
        names = ("statement", "finding", "figure")
        head = {"stream": self.stream, "rule": self.rule}
        return [head | dict(zip(names, entry, strict=True)) for entry in entries]

    def to_dict(self) -> dict[str, Any]:
        return {
            "stream": self.stream,
            "rule": self.rule,
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "regret": self.regret.to_dict(),
        }


@dataclass(frozen=True, slots=True)
class SimulationResult:
    spec: SimulationSpec
    runs: tuple[Run, ...]
    findings: tuple[Finding, ...] = ()  # only if the simulation checked the theory

    def rows(self) -> list[dict[str, Any]]:
        """One row per stream and rule, in the order of the spec.

        `over_best` is MaxVio divided by the smallest MaxVio of the other rules on the stream, minus
        1: a value of 0.05 is 5 % worse than the best of them, a negative value is better.
        """
        rows = [run.row(self.spec.steady_steps) for run in self.runs]
        for row in rows:
            others = [
                other["max_vio"]
                for other in rows
                if other["stream"] == row["stream"] and other["kind"] != row["kind"]
            ]
            row["over_best"] = row["max_vio"] / min(others) - 1 if others else None
        return rows

    def finding_rows(self) -> list[dict[str, str]]:
        """One row per stream, rule and statement of the theory."""
        return [row for finding in self.findings for row in finding.rows()]

    def to_dict(self) -> dict[str, Any]:
        """The spec, the rows and the theory's findings as a JSON document."""
        return {
            "spec": self.spec.model_dump(mode="json"),
            "rows": self.rows(),
            "theory": [finding.to_dict() for finding in self.findings],
        }

    def write(self, folder: Path) -> None:
        """Writes `to_dict` to result.json, and history.parquet: a row per stream, rule, seed, step.

        The page Theory shows such folders below `<home>/simulations`.
        """
        tables = [_history(run) for run in self.runs]
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(tables), folder / "history.parquet", compression="zstd")
        (folder / "result.json").write_text(json.dumps(self.to_dict()))


def steps_until(max_vio_NS: NDArray[np.float32], limit: float) -> int | None:
    """Steps until MaxVio is below the limit, median over seeds; None if most never get there."""
    below_NS = max_vio_NS < limit
    never = len(max_vio_NS) + 1
    first_S = np.where(below_NS.any(axis=0), below_NS.argmax(axis=0) + 1, never)
    median = float(np.median(first_S))
    return None if median >= never else round(median)


def _standard_error(value_S: NDArray[np.float32]) -> float | None:
    count = len(value_S)
    return float(value_S.std(ddof=1) / count**0.5) if count > 1 else None


def _history(run: Run) -> pa.Table:
    steps, seeds, _ = run.load_NS3.shape
    rows = steps * seeds
    return pa.table(
        {
            "stream": pa.array([run.stream] * rows).dictionary_encode(),
            "rule": pa.array([run.rule.label] * rows).dictionary_encode(),
            "step": np.repeat(np.arange(1, steps + 1, dtype=np.int32), seeds),
            "seed": np.tile(np.arange(seeds, dtype=np.int32), steps),
            "max_vio": run.max_vio_NS.ravel(),
            "min_vio": (run.load_NS3[..., 1] - 1).ravel(),
            "idle_frac": run.load_NS3[..., 2].ravel(),
        }
    )
