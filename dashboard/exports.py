"""Saves the numbers of a chart as one table, in CSV or parquet."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go


def chart_table(chart: go.Figure) -> pd.DataFrame:
    """One row per number of the chart, under the titles of its axes, which contain the units.

    Lines and bars have a name, x and y. Maps have x, y and a value, without missing ones.
    """
    parts = [
        _map_rows(trace) if trace.type == "heatmap" else _line_rows(trace) for trace in chart.data
    ]
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["x", "y"])
    titles = {"x": chart.layout.xaxis.title.text or "x", "y": chart.layout.yaxis.title.text or "y"}
    maps = [trace for trace in chart.data if trace.type == "heatmap"]
    if maps:
        titles["z"] = maps[0].colorbar.title.text or "value"
    return table.rename(columns=titles)


def _line_rows(trace: go.Scatter | go.Bar) -> pd.DataFrame:
    y = np.asarray(trace.y if trace.y is not None else [])
    start, step = (0 if trace.x0 is None else trace.x0), (1 if trace.dx is None else trace.dx)
    x = np.asarray(trace.x) if trace.x is not None else start + step * np.arange(len(y))
    return pd.DataFrame({"series": trace.name or "", "x": x, "y": y})


def _map_rows(trace: go.Heatmap) -> pd.DataFrame:
    z = np.asarray(trace.z)
    x = np.arange(z.shape[1]) if trace.x is None else np.asarray(trace.x)
    y = np.arange(z.shape[0]) if trace.y is None else np.asarray(trace.y)
    rows = pd.DataFrame({"x": np.tile(x, len(y)), "y": np.repeat(y, len(x)), "z": z.ravel()})
    return rows.dropna(ignore_index=True)


def _csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


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
