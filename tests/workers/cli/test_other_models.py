"""Commands with a model of another's code: plan, run, report, refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.other_models import folder_of

Sweep = Callable[..., dict[str, Any]]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def other(sweep: Sweep, tmp_path: Path) -> Sweep:
    """Makes the sweep of two trials with a tiny Qwen3-MoE, whose middle layer has no experts."""

    def make(**model: Any) -> dict[str, Any]:
        tree = sweep()
        folder = folder_of("qwen3_moe", tmp_path / "folder")
        tree["base"]["model"] = {"kind": "huggingface", "path": str(folder), **model}
        return tree

    return make


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_runs_to_its_report(evenload: Any, other: Sweep) -> None:
    tree = other()
    tree["axes"] = {"balancer": [{"kind": "none"}, {"kind": "self_tuned"}]}
    ended = evenload("sweep", "run", evenload.write("sweep.yaml", tree), "--json")
    assert ended.code == 0, ended.err
    trials = ended.document["trials"]
    assert [trial["state"] for trial in trials] == ["completed", "completed"]
    assert [trial["num_experts"] for trial in trials] == [8, 8]
    assert all(trial["result"]["val_bits_per_byte"] > 0 for trial in trials)
    report = evenload("report", ended.document["sweep_id"], "--markdown", "report.md")
    assert report.code == 0, report.err
    assert "8 experts" in (evenload.folder / "report.md").read_text()


def test_a_plan_tells_what_was_counted_and_what_is_not_known(here: Any, other: Sweep) -> None:
    ended = here("sweep", "plan", here.write("sweep.yaml", other(num_experts=4)), "--json")
    (first, _) = ended.document["trials"]
    assert (first["num_experts"], first["not_known"]) == (4, "memory of activations")
    assert first["parameters"] > first["active_parameters"] > 0
    table = here("sweep", "plan", "sweep.yaml")
    assert "not known: memory of activations" in table.out


def test_one_trial_of_a_function_trains_here(here: Any, sweep: Sweep) -> None:
    base = sweep()["base"]
    base["model"] = {
        "kind": "python",
        "factory": "tests.other_models:mixture",
        "arguments": {"num_experts": 4, "words": 40},
        "vocab_size": 40,
    }
    ended = here("train", here.write("trial.yaml", base), "--json")
    assert ended.code == 0, ended.err
    (trial,) = ended.document["trials"]
    assert trial["num_experts"] == 4
    assert trial["result"]["val_loss"] > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"path": "nowhere"}, "error: model.path='nowhere': no config.json there; name a folder"),
        ({"num_experts": 4, "config": {"num_experts": 4, "width": 1}}, "model.config.width=1: "),
        ({"weights": True}, "no weights there"),
        ({"path": None}, "model.path=null: "),
    ],
)
def test_a_bad_model_ends_with_2_and_one_message(
    here: Any, other: Sweep, model: dict[str, Any], message: str
) -> None:
    ended = here("sweep", "plan", here.write("sweep.yaml", other(**model)))
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_the_example_of_the_repository_is_a_sweep(here: Any) -> None:
    tree = yaml.safe_load((ROOT / "infra/sweeps/huggingface.yaml").read_text())
    tree["base"]["model"]["path"] = str(ROOT / tree["base"]["model"]["path"])
    tree["base"]["data"] = {"kind": "synthetic", "num_tokens": 60_000}
    ended = here("sweep", "plan", here.write("sweep.yaml", tree), "--json")
    assert ended.code == 0, ended.err
    assert sorted(trial["num_experts"] for trial in ended.document["trials"]) == [16] * 6 + [32] * 6
