"""Every reader shows the same answer of a sweep over three axes, with rows that differ."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streamlit as st
from rich.console import Console
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

import evenload.dashboard
from evenload.pipeline.client import Client
from evenload.pipeline.figures.cost import CostSettings
from evenload.pipeline.report.compose import compose
from evenload.pipeline.report.evidence import gather
from evenload.pipeline.report.markdown_page import markdown_page
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState, WorkKind
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer_text import sentences
from evenload.workers.cli.answer import answer_parts
from evenload.workers.cli.session import sweep_document
from evenload.workers.cli.tables import trial_table

APP = Path(str(evenload.dashboard.__file__)).parent / "app.py"
SPEC = SweepSpec.model_validate(
    {
        "name": "three",
        "base": {
            "model": {"preset": "tiny", "num_experts": 4, "num_layers": 2},
            "train": {"steps": 4, "batch_sequences": 1, "seq_len": 8},
            "runtime": {"device": "cpu", "backend": "torch"},
        },
        "axes": {
            "train.learning_rate": [0.0003, 0.006],
            "model.top_k": [1, 2],
            "balancer": [{"kind": "none"}, {"kind": "sign", "step_size": 0.01}],
            "train.seed": [0, 1, 2],
        },
    }
)
NAMED = {"4 experts, top_k=1": "sign 0.01 learning_rate=0.006"}


def loss_of(trial: TrialSpec) -> float:
    """A high rate costs little loss with top-1; with top-2 the noise hides which one is better."""
    train, top_k = trial.train, trial.model.top_k
    noise = (0.001 if top_k == 1 else 0.1) * math.sin(17 * train.seed + 1000 * train.learning_rate)
    return 3.0 + (0.5 if train.learning_rate < 0.001 else 0.0) + noise + 0.1 * train.seed


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, SweepStore, str]]:
    folder = tmp_path_factory.mktemp("home")
    store = SweepStore(Settings(home=folder).store_url)
    store.migrate()
    trials = [(trial.digest("corpus", "core"), trial) for trial in SPEC.expand()]
    sweep_id = store.add_sweep(SPEC, trials)
    for digest, trial in trials:
        vio = 3.0 if trial.balancer.kind == "none" else 0.3
        figures = {"max_vio": vio, "max_vio_floor": 0.1, "val_bits_per_byte": loss_of(trial)}
        for kind, state in (
            (WorkKind.TRAIN, TrialState.TRAINED),
            (WorkKind.EVAL, TrialState.COMPLETED),
        ):
            claim = store.claim(digest, kind, "w", 3600)
            assert claim is not None
            store.finish(claim, state, figures)
    store.finish_sweep(sweep_id)
    yield folder, store, sweep_id
    store.close()


def printed(*parts: Any, width: int = 2000) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*parts, sep="\n")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_all_readers_have_the_same_sentences(home: tuple[Path, SweepStore, str]) -> None:
    folder, store, sweep_id = home
    answer = Client(home=folder).answer(sweep_id)
    assert {setting.place: setting.label for setting in answer.named} == NAMED
    wanted = sentences(answer)
    assert len(wanted) == 2
    assert "no claim" in wanted[1]
    trials = store.trials(sweep_id)
    document = sweep_document(sweep_id, trials, answer)
    assert (document["answer"], document["named"]) == (wanted, NAMED)
    shown = printed(*answer_parts(answer))
    settings = Settings(home=folder)
    report = markdown_page(compose(gather(store, settings, CostSettings(), sweep_id)))
    for sentence in wanted:
        assert sentence in shown
        assert sentence in report


def test_rows_differ_in_every_table(home: tuple[Path, SweepStore, str]) -> None:
    folder, store, sweep_id = home
    answer = Client(home=folder).answer(sweep_id)
    lines = printed(trial_table(store.trials(sweep_id), answer.axes)).splitlines()
    rows = [tuple(line.split()[:6]) for line in lines if line.startswith(("none ", "sign "))]
    assert len(set(rows)) == len(rows) == 24
    frame = Client(home=folder).trials_frame(sweep_id)
    keys = ["label", "model.top_k", "train.learning_rate", "seed"]
    assert len(frame[keys].drop_duplicates()) == 24
    assert [len(place.settings) for place in answer.places] == [4, 4]
    assert len({setting.name for setting in answer.settings}) == 8


def test_labels_are_whole_on_a_narrow_terminal(home: tuple[Path, SweepStore, str]) -> None:
    answer = Client(home=home[0]).answer(home[2])
    shown = printed(*answer_parts(answer), width=100)
    tables = shown.split("Above the best")[0]
    assert tables.count("learning_rate=0.0003") == tables.count("learning_rate=0.006") == 4


def test_the_page_of_the_sweep_shows_them_too(
    home: tuple[Path, SweepStore, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, sweep_id = home
    monkeypatch.setenv("EVENLOAD_HOME", str(folder))
    st.cache_data.clear()
    st.cache_resource.clear()
    wanted = sentences(Client(home=folder).answer(sweep_id))
    for view in ("Answer", "Front", "Runs"):
        page = AppTest.from_file(str(APP), default_timeout=60)
        page._page_hash = calc_hash("sweep")
        page.query_params["sweep"], page.query_params["view"] = sweep_id, view
        page.run()
        assert not page.exception
        if view == "Answer":
            assert page.expander[0].markdown[0].value == "  \n".join(wanted)
        if view == "Front":
            table = page.dataframe[0].value
            assert len(table[["place", "setting"]].drop_duplicates()) == len(table) == 8
            assert np.isfinite(table.above_best).all()
        if view == "Runs":
            table = page.dataframe[0].value
            keys = ["rule", "model.top_k", "train.learning_rate", "seed"]
            assert len(table[keys].drop_duplicates()) == 24
