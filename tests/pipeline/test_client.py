"""The client as a notebook uses it, on the demonstration home of the dashboard's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from evenload.pipeline.client import Client
from evenload.pipeline.errors import SpecError
from evenload.pipeline.states import TrialState
from tests.dashboard.demo_home import STEPS, build


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("client")
    return folder, build(folder)


def test_a_notebook_gets_from_a_sweep_to_its_loads(home: tuple[Path, dict[str, str]]) -> None:
    folder, ids = home
    client = Client(home=folder)
    assert {sweep.sweep_id for sweep in client.sweeps()} == set(ids.values())

    best = client.answer(ids["finished"]).places[-1].settings[0]
    frame = client.trials_frame(ids["finished"])
    chosen = frame[(frame["setting"] == best.label) & (frame["state"] == "completed")]
    chosen = chosen[chosen["num_experts"] == 32]
    assert best.place == "32 experts"
    assert best.figures["max_vio_floor"] <= best.max_vio
    assert len(chosen) == best.seeds
    assert frame.attrs["max_vio"] == {"title": "MaxVio", "unit": "× fair share", "better": "lower"}
    frame.to_parquet(folder / "trials.parquet")  # attributes are written too
    assert frame[list(frame.attrs)].dtypes.map(str).eq("float64").all()

    digest = str(chosen.iloc[0]["digest"])
    loads = client.loads(digest, first=2, last=5)
    assert loads.step_S.tolist() == [2, 3, 4, 5]
    per_step = loads.count_SLE.sum(axis=(1, 2))
    assert np.all(per_step == per_step[0]), "steps routed different numbers of tokens"
    steps = client.steps_frame(digest)
    assert steps["step"].tolist() == list(range(1, STEPS + 1))
    assert steps["loss"].iloc[-1] < steps["loss"].iloc[0]


def test_unknown_trials_are_named(home: tuple[Path, dict[str, str]]) -> None:
    with pytest.raises(SpecError, match="no-such-trial"):
        Client(home=home[0]).loads("no-such-trial")


def test_a_sweep_file_is_submitted_once(home: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    base = {
        "model": {"preset": "tiny"},
        "balancer": {"kind": "sign"},
        "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    }
    path.write_text(yaml.safe_dump({"name": "s", "base": base, "axes": {"train.seed": [0, 1]}}))
    client = Client(home=home[0])
    assert client.submit(path) == client.submit(path)
    assert client.trials(client.submit(path)) == [], "only `evenload serve` lists its trials"


def test_finished_trials_are_extended_once(home: tuple[Path, dict[str, str]]) -> None:
    client = Client(home=home[0])
    finished = home[1]["finished"]
    longer = client.extend(finished, steps=STEPS + 100)
    assert client.extend(finished, steps=STEPS + 100) == longer
    completed = [t.digest for t in client.trials(finished) if t.state is TrialState.COMPLETED]
    assert client.store.sweep(longer).spec["axes"] == {"extends": completed}
    one = client.extend(finished, steps=STEPS + 200, digest=completed[1])
    assert client.store.sweep(one).spec["axes"] == {"extends": completed[1:2]}
