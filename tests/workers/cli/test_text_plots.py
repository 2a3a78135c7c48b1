from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evenload.pipeline.settings import Settings
from evenload.pipeline.states import CurvePoint, TrialRecord
from evenload.pipeline.store.sweep_store import SweepStore
from evenload.pipeline.sweep.answer import answer_of
from evenload.pipeline.sweep.axes import seed_of
from evenload.workers.cli.text_plots import WIDTH, learning_plot, step_plots
from infra.benchmarks.coordinator import submit
from tests.pipeline.sweep.test_step_curves import sweep
from tests.pipeline.sweep.trial_records import completed_trial


@pytest.fixture
def trials() -> list[TrialRecord]:
    def row(spec: Any, loss: float, max_vio: float, **changes: Any) -> TrialRecord:
        digest, content = spec.digest("corpus", "core"), spec.model_dump(mode="json")
        return completed_trial(digest, spec.balancer.label, content, loss, max_vio, **changes)

    made: Callable[..., TrialRecord] = row
    return sweep(made)


def test_every_figure_of_a_rule_is_drawn_over_its_step_sizes(trials: list[TrialRecord]) -> None:
    shown = [text.plain for text in step_plots(answer_of(trials), {"16 experts": (0.004, 0.02)})]
    loss, notes = shown[:2]
    assert "validation loss, bits per byte, by step size of sign" in loss
    assert loss.splitlines()[-1].split() == ["0.001", "0.01", "0.1"]
    assert notes.strip() == (
        "o 16 experts: 0.01 named, 0.1 tied in evenness, theory advises 0.004 to 0.02"
    )
    assert "MaxVio over its floor" in shown[2]
    assert all(len(line) <= WIDTH and "\x1b" not in line for line in loss.splitlines())


def test_learning_curves_are_means_over_seeds(trials: list[TrialRecord]) -> None:
    assert learning_plot(answer_of(trials), trials, {}) is None
    curves = {
        trial.digest: [
            CurvePoint(step, 64 * step, 1.0, 4.0 + seed_of(trial) - step / 10, 1.0)
            for step in (1, 5, 10)
        ]
        for trial in trials
    }
    plot = learning_plot(answer_of(trials), trials, curves)
    assert plot is not None
    assert "held-out loss, nats per token, by step" in plot.plain
    assert "o none, 16 experts" in plot.plain
    assert "5.90" in plot.plain  # the mean of seeds 0 to 4 at step 1
    assert "7.90" not in plot.plain


def test_a_sweep_without_curves_says_so(here: Any) -> None:
    settings = Settings(home=here.folder / ".evenload")
    settings.root.mkdir()
    store = SweepStore(settings.store_url)
    store.migrate()
    sweep_id = submit(store, 2)
    store.close()
    assert "Nothing to draw" in here("sweep", "status", sweep_id, "--plot").out
