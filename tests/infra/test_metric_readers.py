"""Every reader shows what the table of metrics holds, also for trials that lack some figures."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

import evenload.dashboard
from evenload.pipeline.client import Client
from evenload.pipeline.exporter import Exporter
from evenload.pipeline.figures.cost import CostSettings
from evenload.pipeline.figures.loads import Loads, Target, utilisation
from evenload.pipeline.figures.metrics import METRICS, Metric, Scale, figures, steady
from evenload.pipeline.records.run import RunIdentity, StepRecord
from evenload.pipeline.records.scalars import logged_scalars
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.report.compose import compose
from evenload.pipeline.report.evidence import gather
from evenload.pipeline.report.markdown_page import markdown_page
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Progress, TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import answer
from evenload.pipeline.sweep.answer_text import sentence
from evenload.workers.cli.answer import answer_parts
from evenload.workers.cli.tables import trial_table

APP = Path(str(evenload.dashboard.__file__)).parent / "app.py"
PAGES = (
    *(f"sweep {view}" for view in ("Answer", "Front", "Runs")),
    *(f"run {view}" for view in ("Load", "Record")),
    *("compare", "cost", "sweeps", "glossary"),
)
COUNT_E = np.array([7, 5, 3, 1], np.int32)
VIO = {"none": 3.0, "sign 0.01": 0.2, "sign 0.1": 0.5}
TWO = {"val_bits_per_byte": 2.5, "max_vio": 0.5}
CASES: dict[str, dict[str, float]] = {"two figures": TWO, "none of them": {"of_old": 1.0}}


class Home:
    """Six complete trials and one that trains."""

    def __init__(self, folder: Path, result: Mapping[str, float], bound: float | None) -> None:
        self.settings = Settings(home=folder)
        self.store = SweepStore(self.settings.store_url)
        self.store.migrate()
        spec = _sweep(bound)
        self.trials = [(trial.digest("corpus", "core"), trial) for trial in spec.expand()]
        self.sweep_id = self.store.add_sweep(spec, self.trials)
        *finished, running = self.trials
        for digest, trial in finished:
            self._train(digest, trial)
            own = {"max_vio": VIO[trial.balancer.label]} if "max_vio" in result else {}
            self._finish(digest, {**result, **own})
        self._train(*running)

    def _train(self, digest: str, trial: TrialSpec) -> None:
        claim = self.store.claim(digest, WorkKind.TRAIN, "w", 3600)
        assert claim is not None
        self.claimed = claim
        self.store.heartbeat(claim, Progress(4, 4, 32, 8.0, 3.0, 0.75), 3600)
        sink = LoadLogSink(self.settings.trial_dir(digest))
        sink.start(RunIdentity(digest, "n", None, 1, trial.model_dump(mode="json")))
        sink.log_steps([_step(number) for number in range(1, 5)])

    def _finish(self, digest: str, result: Mapping[str, float]) -> None:
        self.store.finish(self.claimed, TrialState.TRAINED, dict(result))
        claim = self.store.claim(digest, WorkKind.EVAL, "w", 3600)
        assert claim is not None
        self.store.finish(claim, TrialState.COMPLETED, {})

    def terminal(self) -> str:
        console = Console(file=io.StringIO(), width=200)
        found = answer(self.store, self.sweep_id)
        console.print(trial_table(self.store.trials(self.sweep_id), found.axes))
        for part in answer_parts(found):
            console.print(part)
        text = console.file
        assert isinstance(text, io.StringIO)
        return text.getvalue()

    def report(self) -> str:
        return markdown_page(
            compose(gather(self.store, self.settings, CostSettings(), self.sweep_id))
        )

    def scraped(self) -> str:
        registry = CollectorRegistry()
        registry.register(Exporter(self.store, self.settings))
        return generate_latest(registry).decode()


def _sweep(bound: float | None) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "s",
            "base": {
                "model": {"preset": "tiny", "num_experts": 4, "top_k": 2, "num_layers": 2},
                "train": {"steps": 4, "batch_sequences": 1, "seq_len": 8},
                "runtime": {"device": "cpu", "backend": "torch"},
            },
            "axes": {
                "train.seed": [0, 1],
                "balancer": [
                    {"kind": "none"},
                    {"kind": "sign", "step_size": 0.01},
                    {"kind": "sign", "step_size": 0.1},
                ],
            },
            "objective": {"constraints": {} if bound is None else {"idle_frac": bound}},
        }
    )


def _step(number: int) -> StepRecord:
    bias_LE = np.zeros((1, 4), np.float32)
    return StepRecord(number, 3.0, 0.0, 1.0, 1e-3, 8 * number, 0.1, COUNT_E[None], bias_LE, 0.0)


def _opened(home: Home, name: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("EVENLOAD_HOME", str(home.settings.home))
    st.cache_data.clear()
    st.cache_resource.clear()
    digest, other = home.trials[0][0], home.trials[1][0]
    page, _, view = name.partition(" ")
    query = {"sweep": home.sweep_id, "run": digest, "runs": f"{digest},{other}", "view": view}
    app = AppTest.from_file(str(APP), default_timeout=60)
    app._page_hash = calc_hash(page)
    for key, value in query.items():
        if value:
            app.query_params[key] = value
    app.run()
    assert not app.exception, name
    return app


@pytest.mark.parametrize("case", CASES)
def test_trials_of_an_older_version_open_in_every_reader(case: str, tmp_path: Path) -> None:
    home = Home(tmp_path, CASES[case], bound=None)
    trials = home.store.trials(home.sweep_id)
    assert np.isnan(trials[0].figure("idle_frac"))
    shown = home.terminal()
    (row, *_) = (line for line in shown.splitlines() if line.startswith("none "))
    assert row.split().count("–") == {"two figures": 7}.get(case, 9)
    frame = Client(home=tmp_path).trials_frame(home.sweep_id)
    assert frame["idle_frac"].isna().all()
    assert frame["val_bits_per_byte"].isna().all() == (case != "two figures")
    (place,) = answer(home.store, home.sweep_id).places
    assert bool(place.settings) == (case == "two figures")
    unknown_grids = 2 if case == "two figures" else 4
    assert home.report().count("| none | not recorded |") == unknown_grids
    assert "evenload_trial_idle_frac" in home.scraped()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trials_of_an_older_version_open_on_every_page(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path, CASES[case], bound=None)
    for name in PAGES:
        _opened(home, name, monkeypatch)


def test_a_bound_on_a_figure_that_was_not_recorded_is_not_held(tmp_path: Path) -> None:
    home = Home(tmp_path, TWO, bound=0.1)
    found = answer(home.store, home.sweep_id)
    assert not found.named
    assert "idle_frac was not recorded, so it may be above 0.1" in sentence(found)


def test_a_new_metric_is_one_function_and_one_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emptiest(count_E: NDArray[np.int32], target_E: Target) -> NDArray[np.float64]:
        return np.asarray(utilisation(count_E, target_E).min(axis=-1), np.float64)

    entry = Metric(
        "emptiest", "Emptiest expert", "load of the emptiest expert over its fair share",
        r"\min_e r_e", "× fair share", ".3f", "higher", "one step", "this test",
        steady(emptiest), of=("step", "run"), head="Emptiest", scale=Scale(1.0, 0.5),
    )  # fmt: skip
    monkeypatch.setitem(METRICS, "emptiest", entry)
    trial = _sweep(None).expand()[0]
    run = figures("run", Loads.of(trial, np.tile(COUNT_E, (4, 1, 1))))
    assert run["emptiest"] == 0.25
    assert logged_scalars(_step(1), None, trial)["emptiest"] == 0.25

    home = Home(tmp_path, {**run, **TWO}, bound=None)
    shown = home.terminal()
    head, (row, *_) = (
        shown.split("───")[0],
        [x for x in shown.splitlines() if x.startswith("none ")],
    )
    assert "Emptiest" in head
    assert row.split()[-1] == "0.250"
    assert f"Emptiest: {entry.meaning}." in shown.replace("\n", " ")
    report = home.report()
    assert "| Emptiest |" in report
    assert "### Emptiest expert" in report
    assert "| 0.250 |" in report
    assert 'rule="sign 0.1",trial="' in home.scraped()
    scraped = [line for line in home.scraped().splitlines() if "trial_emptiest{" in line]
    assert [line.split()[-1] for line in scraped] == ["0.25"]
    frame = Client(home=tmp_path).trials_frame(home.sweep_id)
    assert frame["emptiest"].dropna().tolist() == [0.25] * 5
    assert frame.attrs["emptiest"]["better"] == "higher"
    for name in ("sweep Runs", "sweep Front"):
        table = _opened(home, name, monkeypatch).dataframe[0].value
        assert table["emptiest"][0] == 0.25
    record = _opened(home, "run Record", monkeypatch).dataframe[0].value.set_index("Name")
    assert record.Value["emptiest"] == "0.250"
    glossary = _opened(home, "glossary", monkeypatch)
    assert "**Emptiest expert** &nbsp; `emptiest`" in [
        str(text.value) for text in glossary.markdown
    ]
