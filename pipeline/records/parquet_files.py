"""Reads and writes arrays in parquet files, which appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray


def lists(values: NDArray[Any], kind: pa.DataType) -> pa.FixedSizeListArray:
    """The array as a column of fixed-size lists, nested once per dimension after the first."""
    column = pa.array(values.reshape(-1), kind)
    for size in reversed(values.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def array(column: pa.ChunkedArray) -> NDArray[Any]:
    """The array that `lists` was given. Without rows it keeps its other dimensions."""
    sizes, kind = [], column.type
    while pa.types.is_fixed_size_list(kind):
        sizes.append(kind.list_size)
        kind = kind.value_type
    values = column.combine_chunks()
    for _ in sizes:
        values = values.flatten()
    return values.to_numpy().reshape(len(column), *sizes)


def write_table(path: Path, table: pa.Table, dictionary: Sequence[str] = ()) -> None:
    """Writes the table.  Args: dictionary: the columns with few different values"""
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=list(dictionary))
    replace(path, buffer.getvalue())


def replace(path: Path, content: bytes | pa.Buffer) -> None:
    """Writes to a temporary file and renames it, so that readers never see a torn file."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
