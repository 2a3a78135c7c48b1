"""`evenload spec`: examples, resolved specs and schemas on standard output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from evenload.pipeline.spec.trial import TrialSpec

TRIAL = Path(__file__).parents[3] / "infra" / "sweeps" / "trial.yaml"


def test_an_example_becomes_a_file_that_show_resolves(here: Any, tmp_path: Path) -> None:
    ended = here("spec", "example", "trial")
    assert ended.code == 0
    (tmp_path / "mine.yaml").write_text(ended.out)
    shown = here("spec", "show", "mine.yaml")
    assert shown.code == 0
    assert yaml.safe_load(shown.out)["balancer"]["step_size"] == 0.01
    assert here("spec", "show", "mine.yaml", "--json").document == yaml.safe_load(shown.out)


def test_the_schema_is_one_json_document(here: Any) -> None:
    assert "axes" in here("spec", "schema", "sweep").document["properties"]


def test_an_unknown_kind_is_refused_with_the_choices(here: Any) -> None:
    ended = here("spec", "example", "trail")
    assert ended.code == 2
    for word in ("trail", "sweep", "trial", "simulation"):
        assert word in ended.err


def test_a_file_that_is_no_spec_is_refused(here: Any) -> None:
    assert here("spec", "show", "absent.yaml").code == 2
    wrong = here.write("wrong.yaml", yaml.safe_load(TRIAL.read_text()) | {"trian": {}})
    ended = here("spec", "show", wrong)
    assert ended.code == 2
    assert (
        ended.err == f"error: {wrong}: trian={{}}: unknown key; check its spelling or remove it\n"
    )


def test_specs_are_shown_without_torch() -> None:
    code = (
        "import sys\n"
        "from evenload.workers.cli import app\n"
        "app(standalone_mode=False)\n"
        "heavy = {'torch', 'ray', 'mlflow', 'sqlalchemy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code, "spec", "show", str(TRIAL)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert TrialSpec.model_validate(yaml.safe_load(shown.stdout)) == TrialSpec.model_validate(
        yaml.safe_load(TRIAL.read_text())
    )
