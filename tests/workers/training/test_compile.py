from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.fx import GraphModule

from evenload.pipeline.errors import SpecError
from evenload.pipeline.records.shards import read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import TrialState
from evenload.workers.training import loop, setup
from evenload.workers.training.compilation import compile_model
from evenload.workers.training.identity import resolve
from evenload.workers.training.loop import TrainOutcome
from evenload.workers.training.scoring import scorer_of
from evenload.workers.training.setup import Assembly, assemble
from evenload.workers.training.step import train_step, trigger_compilation

MakeSpec = Callable[..., TrialSpec]

# torch's own warning: its tracer makes an instance of each autograd function.
pytestmark = pytest.mark.filterwarnings(
    "ignore:<class 'torch.autograd.function.Function'>:DeprecationWarning"
)


class CountingBackend:
    """Replaces inductor: counts the graphs and runs them without compiling."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 32, (4, 33), generator=torch.Generator().manual_seed(0))


def figures(assembly: Assembly, token_BS: torch.Tensor) -> list[torch.Tensor]:
    state, losses = assembly.state, []
    for _ in range(3):
        output, state = train_step(assembly.trainee, state, token_BS.split(2), progress=0.5)
        losses.append(output.loss)
    return [torch.stack(losses), output.count_LE, state.bias_LE]


@pytest.mark.parametrize("kind", ["sign", "self_tuned", "expert_choice"])
def test_a_compiled_step_in_float32_gives_the_figures_of_a_plain_one(
    make_spec: MakeSpec, tokens: torch.Tensor, kind: str
) -> None:
    spec = make_spec(balancer={"kind": kind})
    plain, compiled, backend = assemble(spec), assemble(spec), CountingBackend()
    compile_model(compiled.trainee.model, backend=backend, fullgraph=True)
    expected, actual = figures(plain, tokens), figures(compiled, tokens)
    assert backend.graphs == 1
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_each_shape_is_compiled_once(make_spec: MakeSpec) -> None:
    """This includes a ninth shape, after which torch by default compiles no more."""
    backend = CountingBackend()
    for length, seed in [(4, 0), (4, 1), *((length, 0) for length in range(5, 13))]:
        model = assemble(make_spec(model={"num_layers": 2}, train={"seed": seed})).trainee.model
        compile_model(model, backend=backend)
        with torch.no_grad():
            model(torch.zeros(1, length, dtype=torch.int64), torch.zeros(1, 8))
    assert backend.graphs == 9


@pytest.mark.parametrize("kind", ["sign", "random_router"])
def test_triggering_compilation_compiles_everything_and_changes_no_number(
    make_spec: MakeSpec, tokens: torch.Tensor, kind: str
) -> None:
    spec, backend = make_spec(balancer={"kind": kind}), CountingBackend()
    expected = figures(assemble(spec), tokens)
    compiled = assemble(spec)
    compile_model(compiled.trainee.model, backend=backend)
    trigger_compilation(compiled.trainee, compiled.state, tokens[:2])
    graphs = backend.graphs
    actual = figures(compiled, tokens)
    assert backend.graphs == graphs > 0
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_the_time_of_steps_excludes_compiling(
    make_spec: MakeSpec, run_trial: Callable[..., TrainOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*_: object) -> None:
        time.sleep(2)

    monkeypatch.setattr(loop, "trigger_compilation", slowly)
    monkeypatch.setattr(setup, "compile_model", lambda _: None)
    outcome = run_trial(make_spec(train={"compile": True}))
    assert outcome.result["train_seconds"] < 2


def test_evaluations_are_not_compiled(make_spec: MakeSpec) -> None:
    spec, backend = make_spec(), CountingBackend()
    assembly = assemble(spec)
    compile_model(assembly.trainee.model, backend=backend)
    scorer_of(assembly, assembly.state.bias_LE, 4).score(np.zeros((4, 17), dtype=np.int64))
    assert backend.graphs == 0


def test_a_missing_compiler_is_reported_before_training(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    spec = make_spec()
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"compile": True})})
    for begin in (resolve, assemble):
        with pytest.raises(SpecError, match=r"'no-such-compiler' was not found; install g\+\+"):
            begin(spec)
    assert resolve(spec, has_cuda=False), "workers on other machines check it there"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_run_has_the_losses_of_a_plain_one(
    make_spec: MakeSpec, run_trial: Callable[..., TrainOutcome], settings: Settings
) -> None:
    """Uses inductor for a whole trial with checkpoints."""
    for digest, compiled in (("plain", False), ("compiled", True)):
        outcome = run_trial(make_spec(train={"compile": compiled}), digest=digest)
        assert outcome.state is TrialState.TRAINED
    plain, compiled_ = (read_history(settings.trial_dir(name)) for name in ("plain", "compiled"))
    np.testing.assert_allclose(compiled_.scalars["loss"], plain.scalars["loss"], rtol=1e-3)
