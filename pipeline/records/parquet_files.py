"""Reads and writes arrays in parquet files, which appear whole or not at all."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evenload.pipeline.errors import SpecError

MAGIC = b"PAR1"  # the last bytes of a parquet file


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


class DamagedFile(SpecError):
    """A file of records that cannot be read. What it held is lost until it is restored."""


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The table.

    Raises:   FileNotFoundError
              DamagedFile: a crash has torn it, or it is no such file
    """
    try:
        wanted = None if columns is None else list(columns)
        return pq.read_table(path, columns=wanted, memory_map=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError):
        remedy = "restore it from a backup or the mirror"
        raise DamagedFile(f"{path.parent.name}/{path.name} cannot be read; {remedy}") from None


def is_torn(path: Path) -> bool:
    """Whether the end of the file is missing, which is seen without reading it."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, len(MAGIC)), os.SEEK_END)
        return file.read() != MAGIC


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
