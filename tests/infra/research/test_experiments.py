from __future__ import annotations

import re
from pathlib import Path

import infra.research.experiments
from infra.research.experiments import EXPERIMENTS

LOG = Path(infra.research.experiments.__file__).parent / "LOG.md"


def test_every_experiment_is_in_the_log_and_every_command_of_the_log_exists() -> None:
    named = set(re.findall(r"research\.experiments ([a-z_]+)", LOG.read_text(encoding="utf-8")))
    assert named == set(EXPERIMENTS)
