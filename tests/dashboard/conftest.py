"""A home with finished, running, cancelled and submitted sweeps, and the app over it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pytest
import streamlit as st
from numpy.typing import NDArray
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

import evenload.dashboard
from evenload.pipeline.settings import Settings
from evenload.pipeline.states import TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore

APP = Path(str(evenload.dashboard.__file__)).parent / "app.py"


class Demo(NamedTuple):
    home: Path
    ids: Mapping[str, str]  # of sweeps: submitted, cancelled, searched, finished, running

    def trials(self, sweep: str) -> list[TrialRecord]:
        store = SweepStore(Settings(home=self.home).store_url)
        try:
            return store.trials(self.ids[sweep])
        finally:
            store.close()

    def trial(self, sweep: str, label: str, experts: int) -> TrialRecord:
        return next(
            trial
            for trial in self.trials(sweep)
            if (trial.label, trial.spec["model"]["num_experts"]) == (label, experts)
        )


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    place = Path(__file__).parent / "demo_home.py"
    spec = importlib.util.spec_from_file_location("demo_home", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    home = tmp_path_factory.mktemp("dashboard") / "home"
    return Demo(home, module.build(home))


@pytest.fixture
def demo_home(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> Demo:
    """The demo, with EVENLOAD_HOME set to it and empty caches."""
    use_home(demo.home, monkeypatch)
    return demo


@pytest.fixture
def open_page(demo_home: Demo) -> Callable[..., AppTest]:
    def opened(page: str, **query: str) -> AppTest:
        return render(page, **query)

    return opened


class Drawn(NamedTuple):
    """A chart as the browser gets it."""

    spec: dict[str, Any]
    tables: list[pd.DataFrame]

    @property
    def table(self) -> pd.DataFrame:
        return self.tables[0]

    def map(self) -> NDArray[Any]:
        """The values of a map, rows down; NaN where a cell is blank."""
        columns, rows, values = self.table.columns
        across, down = (
            self.spec["layer"][0]["encoding"][side]["scale"]["domain"] for side in ("x", "y")
        )
        grid = self.table.pivot(index=rows, columns=columns, values=values)
        return grid.reindex(index=down, columns=across).to_numpy(float)

    def lines(self) -> dict[str, NDArray[Any]]:
        """The values of each line, in their order."""
        series, _, y = self.table.columns
        groups = self.table.groupby(series, sort=False, observed=True)
        return {str(name): group[y].to_numpy() for name, group in groups}


@pytest.fixture
def drawn() -> Callable[[AppTest], dict[str, Drawn]]:
    """The charts of a page by their keys, in their order."""

    def charts(page: AppTest) -> dict[str, Drawn]:
        found = {}
        for element in page.get("vega_lite_chart"):
            spec = json.loads(element.proto.spec)
            datas = [element.proto.data.data, *(d.data.data for d in element.proto.datasets)]
            tables = [pa.ipc.open_stream(data).read_pandas() for data in datas if data]
            tables = [table for table in tables if "apart" not in table]  # of a legend
            key = spec["usermeta"]["embedOptions"]["downloadFileName"]
            found[key] = Drawn(spec, tables)
        return found

    return charts


def use_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENLOAD_HOME", str(home))
    st.cache_data.clear()
    st.cache_resource.clear()


def render(page: str, **query: str) -> AppTest:
    """Opens a page of the app at an address with this query."""
    app = AppTest.from_file(str(APP), default_timeout=60)
    # switch_page names a page by its file before the first run, and every file here is page.py.
    app._page_hash = calc_hash(page)
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    settings.root.mkdir()
    return settings


@pytest.fixture
def render_in(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens pages of the app over a new, empty home."""
    use_home(settings.root, monkeypatch)
    return render
