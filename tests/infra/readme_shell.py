"""Runs the commands of a README as a reader would type them, but quickly and without servers.

`evenload ...` runs in this process. Example files are made small. Commands that install, that serve
until Ctrl-C, or that need Docker, Kubernetes or a GPU, are replaced by ones that check their
options.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from evenload.pipeline.records.sinks import default_sinks
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.sweep.policies import SweepPolicies
from evenload.workers.actors.eval_actor import EvalActor
from evenload.workers.actors.train_actor import TrainActor
from evenload.workers.cli import main
from evenload.workers.cli.session import initial_trials, open_store
from evenload.workers.training.identity import identify

ROOT = Path(__file__).parents[2]
COPIED = (
    "*.py",
    "*.sh",
    "results/*",
    "examples/*.py",
    "benchmarks/results/*",
    "benchmarks/hardware.py",
    "k8s/**/*",
    "README.md",
)

RUN = "evenload sweep run"
# Beginning of a command -> its replacement. `{}` is the command itself.
STAND_INS: dict[str, str] = {
    "source .venv/bin/activate": "true",
    "export ": "true",  # only the replaced commands need it
    "bash infra/quickstart.sh": "bash -n infra/quickstart.sh",  # installs
    "bash infra/install.sh": "bash -n infra/install.sh",
    "bash infra/test.sh": "bash -n infra/test.sh",
    "evenload dashboard": "{} --help",  # serves until Ctrl-C
    "evenload mcp": "{} --help",  # likewise
    "evenload bench": "{} --help",  # minutes, or a GPU
    "evenload tune": "{} --help",  # a GPU
    f"{RUN} infra/sweeps/tune_confirm.yaml": "evenload sweep plan infra/sweeps/tune_confirm.yaml",
    f"{RUN} infra/sweeps/step_sizes.yaml --address": "{} --help",  # a cluster
    f"{RUN} NEW_ID": "evenload sweep status NEW_ID",  # Ray
    "evenload sweep compare ID OTHER_ID": "evenload sweep compare ID ID",  # there is one sweep
    "evenload import": "{} --help",  # files of other programs
    "evenload export": "{} --help",  # tests/workers/cli/test_export.py runs it
    "python -m pytest": "{} --collect-only -q",
    "python -m tests.faults.chaos": "{} --help",  # half an hour
    "python -m evenload.": "{}",
    "python infra/examples/advise_attached.py": "{} --quick",  # minutes
    "docker-compose": "compose",
    "kubectl": "files",
    "ray job submit": "files",
    "bash infra/k8s/secrets.sh": "bash infra/k8s/secrets.sh",  # into kubectl
}
SMALL_TRAINING = {"batch_sequences": 2, "seq_len": 16, "warmup_steps": 0}
SMALL_DATA = {"kind": "synthetic", "num_tokens": 20_000, "vocab_size": 256}
SMALL_SIMULATION = {"tokens": 128, "num_experts": 8, "top_k": 2, "steps": 20, "seeds": 1}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def commands(readme: str) -> list[str]:
    """The command lines of a README, in order, without their comments."""
    text = (ROOT / readme).read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = (re.sub(r"\s+#.*", "", line).strip() for line in lines)
    return [" ".join(line.split()) for line in found if line]


def stand_in(command: str) -> str | None:
    """The replacement of a command; None: it runs itself."""
    for beginning, instead in STAND_INS.items():
        if command.startswith(beginning):
            return instead.format(command)
    return None


class Shell:
    """Runs commands in a copy of the clone. Placeholders get values that commands have printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, str] = {}
        _copy_clone(folder)

    def run(self, command: str) -> None:
        """Raises: AssertionError: the exit code is not 0"""
        instead = stand_in(command)
        if instead in ("compose", "files"):
            return check_names(command)
        ended = self._execute(self._filled(instead or command))
        assert ended.code == 0, f"{command}\n{ended.out}{ended.err}"
        self._learn(command, ended.out)
        return None

    def _execute(self, line: str) -> Ended:
        line, _, target = line.partition(" > ")
        line, _, source = line.partition(" < ")
        words = shlex.split(line)
        if words[0] == "evenload":
            if words[1:3] == ["sweep", "run"] and words[-1] != "--help":
                train_without_ray(words[3], self.folder / words[3])
            ended = in_process(words)
        else:
            given = (self.folder / source.strip()).read_text() if source else ""
            ended = in_subprocess(words, self.folder, given)
        if target:
            self._write(target.strip(), ended.out)
        return ended

    def _write(self, name: str, text: str) -> None:
        if name.endswith(".yaml"):
            text = yaml.safe_dump(small(yaml.safe_load(text)), sort_keys=False)
        (self.folder / name).write_text(text)

    def _filled(self, line: str) -> str:
        for name, value in self.known.items():
            line = re.sub(rf"\b{name}\b", value, line)
        return line

    def _learn(self, command: str, out: str) -> None:
        """Sets ID to the sweep of step sizes, NEW_ID to its extension."""
        if command.startswith("evenload sweep extend"):
            self.known["NEW_ID"] = out.split()[-1]
        elif "step_sizes.yaml" in command:
            spec = load_sweep(self.folder / "infra" / "sweeps" / "step_sizes.yaml")
            self.known["ID"] = spec.sweep_id()


def _copy_clone(folder: Path) -> None:
    for pattern in COPIED:
        for path in (ROOT / "infra").glob(pattern):
            if path.is_file() and "__pycache__" not in path.parts:
                _copy(path, folder)
    for path in (*ROOT.glob("*.md"), *ROOT.glob("*/README.md")):
        _copy(path, folder)
    for path in (ROOT / "infra" / "sweeps").glob("*.yaml"):
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(yaml.safe_dump(small(yaml.safe_load(path.read_text())), sort_keys=False))


def _copy(path: Path, folder: Path) -> None:
    target = folder / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def small(content: dict[str, Any], steps: int = 64) -> dict[str, Any]:
    """The same file with little to compute. `advise` needs at least 64 steps."""
    if "streams" in content:
        streams = dict([*content["streams"].items()][:2])
        return content | SMALL_SIMULATION | {"streams": streams, "rules": content["rules"][:3]}
    if "base" in content:
        axes = {key: values[:2] for key, values in content["axes"].items()}
        axes[next(iter(axes))] = next(iter(axes.values()))[:1]
        return content | {"base": small(content["base"], steps=12), "axes": axes}
    sizes = {"tokens": 512, "group_tokens": 512, "by_k_tokens": 512}
    evaluation = content.get("eval", {}) | sizes
    train = SMALL_TRAINING | {"steps": steps}
    return content | {"train": train, "data": SMALL_DATA, "eval": evaluation}


def train_without_ray(sweep_id: str, path: Path) -> None:
    """Trains and evaluates all trials of a sweep, so that `sweep run` only prints the result.

    Args:     path: of the sweep's file; if there is none, the sweep is in the store
    """
    settings = Settings(home=Path(".evenload"))
    store = open_store(settings, create=True)
    if path.exists():
        spec = load_sweep(path)
        sweep_id = store.add_sweep(spec, initial_trials(spec, settings))
    else:
        spec = SweepSpec.trusted(store.sweep(sweep_id).spec)
        store.add_sweep(spec, initial_trials(spec, settings))
        SweepPolicies(store, lambda _, trials: identify(trials, settings)).apply(sweep_id, room=99)
    for trial in store.trials(sweep_id):
        if not trial.state.is_final:
            TrainActor("here", settings, default_sinks).work(trial.digest)
            EvalActor("here", settings, default_sinks).work(trial.digest)
    store.close()


def in_process(words: list[str]) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    arguments, sys.argv = sys.argv, words
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = arguments
    raise AssertionError(f"{words} did not exit")


def in_subprocess(words: list[str], folder: Path, given: str) -> Ended:
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    # Python must find tests and infra as in a clone.
    paths = os.pathsep.join([str(ROOT), str(ROOT / "infra" / "package")])
    done = subprocess.run(
        words,
        cwd=ROOT if "pytest" in words else folder,
        env=os.environ | {"PYTHONPATH": paths},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def check_names(command: str) -> None:
    """Raises: AssertionError: the command names a service, profile or file that does not exist"""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    profiles = {name for service in compose.values() for name in service.get("profiles", ())}
    words = shlex.split(command)
    for option, value in pairwise(words):
        if option in ("exec", "-T", "stop", "logs") and not value.startswith("-"):
            assert value in compose, command
        if option == "--scale":
            assert value.partition("=")[0] in compose, command
        if option == "--profile":
            assert value in profiles, command
        if option in ("-k", "-f", "--working-dir") and value != "-":
            assert (ROOT / value).exists(), command
    for inner in re.findall(r"evenload sweep (\w+)", command):
        assert in_process(["evenload", "sweep", inner, "--help"]).code == 0, command
