"""Attaching to other projects' code. Runs with `bash infra/test.sh --integrations`."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

torch.set_num_threads(1)

# Libraries that infra/integrations.txt names and the ordinary run does without.
LIBRARIES = ("trl", "peft", "torchtitan", "megatron")
# Their warnings are theirs. Ours are expected one by one.
MARKS = (pytest.mark.integration, pytest.mark.filterwarnings("default"))
NOT_RUN = {
    "torchtitan's whole models and trainer": "their attention is compiled for a GPU",
    "Megatron's layers and training loop": "they allocate on a GPU",
    "TransformerEngine's fused router": "needs CUDA",
    "GRPO with vLLM": "needs a GPU; generation is that of transformers",
    "DeepSpeed": "not tried; its optimizers have kernels to compile",
    "CUDA graphs": "need a GPU",
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.getoption("markexpr") == "integration":
        terminalreporter.section("not run")
        for what, reason in NOT_RUN.items():
            terminalreporter.line(f"{what}: {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "integrations":
            for mark in MARKS:
                item.add_marker(mark)


@pytest.fixture(autouse=True)
def _is_installed(request: pytest.FixtureRequest) -> None:
    """A test of a library that is not installed is skipped, and named at the end of the run."""
    for library in LIBRARIES:
        if library in request.path.stem and find_spec(library) is None:
            pytest.skip(f"{library} is not installed: see infra/integrations.txt")
