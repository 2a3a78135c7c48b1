"""Saves the numbers of a chart as one table, in CSV or parquet."""

import io
from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from evenload.pipeline.charts.style import Chart, tables
from evenload.pipeline.escaping import for_spreadsheet


def chart_table(chart: Chart) -> pd.DataFrame:
    """One row per number of the chart, under the titles of its axes, which contain the units."""
    parts = [table.to_pandas() for table in tables(chart) if len(table)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _csv(table: pd.DataFrame) -> bytes:
    return table.map(for_spreadsheet).rename(columns=for_spreadsheet).to_csv(index=False).encode()


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


class Format(NamedTuple):
    """A file format."""

    title: str
    mime: str
    write: Callable[[pd.DataFrame], bytes]

    def written(self, table: Callable[[], pd.DataFrame]) -> bytes:
        return self.write(table())


# By file suffix.
FORMATS: dict[str, Format] = {
    "csv": Format("CSV", "text/csv", _csv),
    "parquet": Format("Parquet", "application/vnd.apache.parquet", _parquet),
}
