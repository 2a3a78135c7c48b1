"""Letters: N steps, S seeds, E experts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from evenload.pipeline.figures.loads import max_vio, max_vio_floor
from evenload.pipeline.records.scores import Recording, write_recording
from evenload.pipeline.spec.simulation import SimulationSpec, load_simulation
from evenload.workers.simulation.result import steps_until
from evenload.workers.simulation.rule_runner import run_rules
from evenload.workers.simulation.run import simulate

SMALL: dict[str, Any] = {
    "tokens": 256,
    "num_experts": 16,
    "top_k": 2,
    "steps": 50,
    "seeds": 2,
    "streams": {
        "still": {"kind": "gaussian"},
        "jump": {"kind": "gaussian", "jump_at": 0.5},
    },
    "rules": [
        {"kind": "none"},
        {"kind": "proportional", "step_size": [0.003, 0.03]},
        {"kind": "quantile"},
        {"kind": "self_tuned"},
    ],
}


def spec(**change: Any) -> SimulationSpec:
    return SimulationSpec.model_validate(SMALL | change)


def test_rows_show_which_rules_balance_and_how_fast() -> None:
    rows = {(row["stream"], row["kind"]): row for row in simulate(spec()).rows()}
    assert rows["still", "none"]["max_vio"] > 1
    assert rows["still", "none"]["steps_to_balance"] is None
    assert rows["still", "self_tuned"]["ratio"] < 1.25
    assert rows["still", "self_tuned"]["steps_to_balance"] <= 4
    assert rows["jump", "self_tuned"]["recovery_steps"] <= 6
    assert rows["still", "self_tuned"]["recovery_steps"] is None
    assert rows["still", "none"]["over_best"] > 1
    assert rows["still", "self_tuned"]["over_best"] < 0.05


def test_the_same_spec_gives_the_same_numbers_and_another_seed_others() -> None:
    still = {"streams": {"still": {"kind": "gaussian"}}}
    once, again, other = (
        simulate(spec(**still, **change)).rows() for change in ({}, {}, {"first_seed": 5})
    )
    assert once == again
    assert once[0]["max_vio"] != other[0]["max_vio"]


def test_every_rule_sees_the_same_scores_with_and_without_others() -> None:
    alone = simulate(spec(rules=[{"kind": "quantile"}])).rows()[0]
    together = next(row for row in simulate(spec()).rows() if row["kind"] == "quantile")
    assert alone["max_vio"] == together["max_vio"]


def test_steady_figures_are_the_mean_of_max_vio_over_the_last_steps() -> None:
    small = spec(rules=[{"kind": "none"}], streams={"still": {"kind": "gaussian"}})
    frames = [frame["none"] for frame in run_rules(small, small.streams["still"])]
    vio_NS = np.stack([max_vio(frame.observation.count_LE.numpy()) for frame in frames])
    assert simulate(small).rows()[0]["max_vio"] == pytest.approx(vio_NS[-20:].mean(), rel=1e-5)


def test_progress_counts_up_to_the_total() -> None:
    seen: list[tuple[int, int, str]] = []
    simulate(spec(), lambda done, total, stream: seen.append((done, total, stream)))
    assert [entry[0] for entry in seen] == list(range(10, 101, 10))
    assert seen[-1] == (100, 100, "jump")


def test_results_go_to_json_and_parquet(tmp_path: Path) -> None:
    result = simulate(spec())
    content = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(content["rows"]) == 10
    assert SimulationSpec.model_validate(content["spec"]) == spec()
    result.write(tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "history.parquet")
    assert table.num_rows == 2 * 5 * 50 * 2
    last = table.to_pylist()[0]
    assert (last["stream"], last["rule"], last["step"], last["seed"]) == ("still", "none", 1, 0)
    assert last["max_vio"] == pytest.approx(float(result.runs[0].max_vio_NS[0, 0]))


def test_loads_are_compared_with_the_rules_own_target() -> None:
    target = [0.2, 0.1, *[0.05] * 14]
    rules = [{"kind": "self_tuned", "target": target}]
    row = simulate(spec(rules=rules, streams={"still": {"kind": "gaussian"}})).rows()[0]
    assert row["max_vio"] < 0.5
    size = spec(rules=rules)
    assert row["floor"] == max_vio_floor(size.tokens, 16, size.top_k, target)
    assert row["floor"] != max_vio_floor(size.tokens, 16, size.top_k)


def test_steps_until_is_the_median_over_seeds() -> None:
    vio_NS = np.array([[1.0, 1.0, 1.0], [0.1, 1.0, 1.0], [0.1, 0.1, 1.0]], dtype=np.float32)
    assert steps_until(vio_NS, 0.5) == 3
    assert steps_until(vio_NS[:, 2:], 0.5) is None


def test_a_recording_of_other_experts_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    scores = np.zeros((2, 1, 8, 4), dtype=np.float32)
    write_recording(path, Recording(scores, scores[:, :, 0], 2))
    with pytest.raises(ValueError, match="set num_experts=4"):
        simulate(spec(streams={"run": {"kind": "recorded", "path": str(path)}}))


def test_the_table_of_the_readme_is_a_valid_simulation() -> None:
    path = Path(__file__).parents[3] / "infra" / "sweeps" / "rules.yaml"
    assert load_simulation(path).num_experts == yaml.safe_load(path.read_text())["num_experts"]
