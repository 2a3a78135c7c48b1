"""The READMEs are true: tables follow from data, examples load, links lead somewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial

ROOT = Path(__file__).parents[2]
READMES = [
    "README.md",
    "pipeline/README.md",
    "workers/README.md",
    "dashboard/README.md",
    "infra/README.md",
    "tests/README.md",
]
RECORDED = sorted(
    [*ROOT.glob("infra/results/*.jsonl"), *ROOT.glob("infra/benchmarks/results/*.jsonl")]
)


def section(readme: str, title: str) -> str:
    text = (ROOT / readme).read_text()
    return re.split(r"^#+ ", text.split(f" {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_tables_follow_from_the_models_and_from_recorded_results() -> None:
    check = [sys.executable, str(ROOT / "infra" / "readme.py"), "--check"]
    assert subprocess.run(check, check=False).returncode == 0, "run: python infra/readme.py"


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


@pytest.mark.parametrize("readme", READMES)
def test_links_and_pictures_lead_to_files_and_sections(readme: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / readme).read_text()):
        path, _, anchor = target.partition("#")
        found = (ROOT / readme).parent / path
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.MULTILINE)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_results_say_where_they_come_from(path: Path) -> None:
    header, *rows = (json.loads(line) for line in path.read_text().splitlines())
    assert header.keys() >= {"command", "date", "device", "commit"}
    assert rows


def test_the_sweep_of_the_first_page_is_valid() -> None:
    first, more = code_blocks((ROOT / "README.md").read_text(), "yaml")
    sweep = yaml.safe_load(first)
    assert len(SweepSpec.model_validate(sweep).expand()) == 6
    sweep["base"]["eval"] = {"every_steps": 10}
    searched = SweepSpec.model_validate(sweep | yaml.safe_load(more))
    assert searched.search.kind == "tpe"
    assert searched.confirm is not None


@pytest.mark.parametrize("path", sorted((ROOT / "infra" / "sweeps").glob("*.yaml")), ids=str)
def test_example_files_are_valid(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    if "axes" in content:
        assert load_sweep(path).expand()
    elif "model" in content:
        assert isinstance(load_trial(path), TrialSpec)
    else:
        assert "streams" in content, "a simulation"


@pytest.mark.slow
def test_the_loop_with_a_rule_balances_its_router() -> None:
    (code,) = code_blocks(section("workers/README.md", "Use a rule in your own loop"), "python")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = re.search(r"fullest expert: ([\d.]+) times", ended.stdout)
    assert found is not None
    assert 1 < float(found[1]) < 1.3


@pytest.mark.slow
def test_the_four_steps_add_a_rule_that_passes_the_conformance_suite(tmp_path: Path) -> None:
    steps = section("workers/README.md", "Add a rule in four steps")
    entry, code = code_blocks(steps, "python")
    name = re.findall(r'^    "(\w+)": Rule', entry, flags=re.MULTILINE)[0]
    package = Path("infra/package/evenload")
    shutil.copytree(ROOT / package, tmp_path / package, symlinks=True)
    for room in ("pipeline", "workers", "tests", "pyproject.toml"):
        source, target = ROOT / room, tmp_path / room
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    table = tmp_path / "pipeline" / "spec" / "balancers.py"
    head = "BALANCERS: dict[str, Rule] = {\n"
    table.write_text(table.read_text().replace(head, head + entry))
    (tmp_path / "workers" / "balancing" / f"{name}.py").write_text(code)
    selected = ["-k", f"conformance and {name}", "-p", "no:cacheprovider"]
    suite = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/workers/balancing", *selected],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{tmp_path}:{tmp_path}/infra/package",
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert suite.returncode == 0, suite.stdout[-2000:]
    assert int(re.findall(r"(\d+) passed", suite.stdout)[0]) > 5
