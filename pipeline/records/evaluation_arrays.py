"""The arrays of an evaluation, one parquet file each. They are also artifacts of the MLflow run.

    <trial_dir>/evaluation/groups-<step>.parquet         one row per group: group, loss,
                                                         bits_per_byte, tokens, load [L][E]
    <trial_dir>/evaluation/by_k-<step>.parquet           one row per k: k, loss, tokens, load [L][E]
    <trial_dir>/evaluation/co_activation-<step>.parquet  one row per layer and expert: tokens [E]
    <trial_dir>/evaluation/transitions-<step>.parquet    one row per layer and expert: tokens [E]

`loss` is in nats per token, `load` counts assignments, and layers are expert layers, from 0 on.
`pipeline.figures.evaluation` explains the arrays. Placement studies use the last two to find the
experts of one layer, and of two neighbouring layers, that should share a device.

Reading raises `DamagedFile` if a file cannot be read.

Letters: G groups, N values of k, L expert layers, E experts.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from evenload.pipeline.figures.evaluation import Detail, GroupScores, Integers, LossByK, Routes
from evenload.pipeline.records.parquet_files import array, lists, read_table, write_table

FOLDER = "evaluation"
GROUPS = "groups"
BY_K = "by_k"
CO_ACTIVATION = "co_activation"
TRANSITIONS = "transitions"


def write(trial_dir: Path, step: int, detail: Detail) -> None:
    """Writes the arrays, replacing those of an earlier evaluation at this step.  Raises: OSError"""
    for name, table in _tables(detail).items():
        path = trial_dir / FOLDER / f"{name}-{step:08d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, table)


def read_groups(trial_dir: Path) -> GroupScores | None:
    """The scores per group from the newest evaluation; None if there is none."""
    table = _newest(trial_dir, GROUPS)
    if table is None:
        return None
    return GroupScores(
        name_G=tuple(table.column("group").to_pylist()),
        loss_G=array(table.column("loss")),
        bits_per_byte_G=array(table.column("bits_per_byte")),
        tokens_G=array(table.column("tokens")),
        count_GLE=array(table.column("load")),
    )


def read_by_k(trial_dir: Path) -> LossByK | None:
    """The losses by top-k from the newest evaluation; None if there are none."""
    table = _newest(trial_dir, BY_K)
    if table is None:
        return None
    return LossByK(
        k_N=array(table.column("k")),
        loss_N=array(table.column("loss")),
        count_NLE=array(table.column("load")),
        tokens=int(array(table.column("tokens"))[0]),
    )


def read_routes(trial_dir: Path) -> Routes | None:
    """The route counts from the newest evaluation; None if there are none."""
    together = _newest(trial_dir, CO_ACTIVATION)
    onward = _newest(trial_dir, TRANSITIONS)
    if together is None or onward is None:
        return None
    return Routes(_squares(together), _squares(onward))


def paths(trial_dir: Path) -> list[Path]:
    """The files of all evaluations."""
    return sorted((trial_dir / FOLDER).glob("*-*.parquet"))


def _newest(trial_dir: Path, name: str) -> pa.Table | None:
    newest = max((trial_dir / FOLDER).glob(f"{name}-*.parquet"), default=None)
    return None if newest is None else read_table(newest)


def _tables(detail: Detail) -> dict[str, pa.Table]:
    tables = {}
    if detail.groups is not None:
        tables[GROUPS] = _groups_table(detail.groups)
    if detail.by_k is not None:
        tables[BY_K] = _by_k_table(detail.by_k)
    if detail.routes is not None:
        tables[CO_ACTIVATION] = _squares_table(detail.routes.together_LEE)
        tables[TRANSITIONS] = _squares_table(detail.routes.onward_LEE)
    return tables


def _groups_table(groups: GroupScores) -> pa.Table:
    columns = {
        "group": list(groups.name_G),
        "loss": groups.loss_G,
        "bits_per_byte": groups.bits_per_byte_G,
        "tokens": groups.tokens_G,
        "load": lists(groups.count_GLE, pa.int64()),
    }
    return pa.table(columns)


def _by_k_table(by_k: LossByK) -> pa.Table:
    columns = {
        "k": by_k.k_N,
        "loss": by_k.loss_N,
        "tokens": np.full(len(by_k.k_N), by_k.tokens, np.int64),
        "load": lists(by_k.count_NLE, pa.int64()),
    }
    return pa.table(columns)


def _squares_table(count_LEE: Integers) -> pa.Table:
    L, E, _ = count_LEE.shape
    columns = {
        "layer": np.repeat(np.arange(L, dtype=np.int32), E),
        "expert": np.tile(np.arange(E, dtype=np.int32), L),
        "tokens": lists(count_LEE.reshape(L * E, E), pa.int64()),
    }
    return pa.table(columns)


def _squares(table: pa.Table) -> Integers:
    count_RE = array(table.column("tokens"))
    E = count_RE.shape[-1]
    return count_RE.reshape(-1, E, E)
