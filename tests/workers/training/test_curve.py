from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, CurvePoint, Progress, TrialState
from evenload.workers.training.evaluate import evaluate
from evenload.workers.training.loop import TrainOutcome, resume_step, train

MakeSpec = Callable[..., TrialSpec]
RunTrial = Callable[..., TrainOutcome]
Observe = Callable[..., tuple[TrainOutcome, list[CurvePoint]]]
EVERY = {"eval": {"every_steps": 8, "curve_tokens": 256}}


def always(_: Progress) -> Command:
    return Command.CONTINUE


def identity(spec: TrialSpec, digest: str, settings: Settings) -> RunIdentity:
    return RunIdentity(
        digest=digest,
        name=spec.balancer.label,
        sweep_id=None,
        attempt=1,
        spec=spec.model_dump(mode="json"),
        resumed_from_step=resume_step(settings, digest),
    )


@pytest.fixture
def observe(settings: Settings) -> Observe:
    """Trains as one attempt and keeps the points of its learning curve."""

    def run(
        spec: TrialSpec, digest: str, report: Callable[[Progress], Command] = always
    ) -> tuple[TrainOutcome, list[CurvePoint]]:
        points: list[CurvePoint] = []
        sink = LoadLogSink(settings.trial_dir(digest))
        outcome = train(
            spec,
            settings=settings,
            digest=digest,
            sink=sink,
            report=report,
            run=identity(spec, digest, settings),
            observe=points.append,
        )
        sink.close(TrialState.TRAINED, outcome.result)
        return outcome, points

    return run


@pytest.mark.parametrize("kind", ["sign", "random_router"])
def test_a_curve_changes_no_number_of_the_training(
    make_spec: MakeSpec, run_trial: RunTrial, observe: Observe, settings: Settings, kind: str
) -> None:
    """The random router draws from the random state that scoring must leave alone."""
    run_trial(make_spec(balancer={"kind": kind}), digest="plain")
    observe(make_spec(balancer={"kind": kind}, **EVERY), digest="observed")
    plain, observed = (read_history(settings.trial_dir(name)) for name in ("plain", "observed"))
    assert (plain.count_SLE == observed.count_SLE).all()
    assert (plain.bias_SLE == observed.bias_SLE).all()
    assert (plain.scalars["loss"] == observed.scalars["loss"]).all()


def test_points_come_every_so_many_steps_and_at_the_end(
    make_spec: MakeSpec, observe: Observe
) -> None:
    outcome, points = observe(make_spec(**EVERY), "a")
    assert [point.step for point in points] == [8, 16, 20]
    assert [point.tokens for point in points] == [step * 4 * 32 for step in (8, 16, 20)]
    assert points[0].seconds < points[1].seconds < points[2].seconds
    assert points[-1].seconds == pytest.approx(outcome.result["train_seconds"])
    assert points[-1].val_loss < points[0].val_loss


def test_the_last_point_is_what_the_evaluation_of_its_tokens_says(
    make_spec: MakeSpec, observe: Observe, settings: Settings
) -> None:
    spec = make_spec(eval={"every_steps": 20, "curve_tokens": 1024, "tokens": 1024})
    outcome, points = observe(spec, "a")
    figures = evaluate(
        spec,
        settings=settings,
        digest="a",
        checkpoint_uri=outcome.checkpoint_uri,
        sink=LoadLogSink(settings.trial_dir("a")),
        run=identity(spec, "a", settings),
    )
    assert points[0].val_loss == pytest.approx(figures["val_loss"], rel=1e-6)


def test_a_resumed_run_goes_on_with_the_same_curve(make_spec: MakeSpec, observe: Observe) -> None:
    spec = make_spec(**EVERY)
    _, whole = observe(spec, "whole")

    def stop_at_10(progress: Progress) -> Command:
        return Command.STOP if progress.step == 10 else Command.CONTINUE

    _, first = observe(spec, "cut", stop_at_10)
    _, second = observe(spec, "cut")
    assert [(p.step, p.tokens, p.val_loss) for p in [*first, *second]] == [
        (p.step, p.tokens, p.val_loss) for p in whole
    ]
    assert second[0].seconds > first[-1].seconds


def test_a_point_tells_of_the_imbalance_since_the_last(
    make_spec: MakeSpec, observe: Observe, settings: Settings
) -> None:
    _, points = observe(make_spec(**EVERY), "a")
    count_SLE = read_history(settings.trial_dir("a")).count_SLE
    vio_S = (count_SLE.max(axis=-1) / count_SLE.mean(axis=-1) - 1).mean(axis=-1)
    expected = [vio_S[:8].mean(), vio_S[8:16].mean(), vio_S[16:].mean()]
    assert np.allclose([point.max_vio for point in points], expected)


def test_without_being_asked_nothing_is_scored(make_spec: MakeSpec, observe: Observe) -> None:
    assert observe(make_spec(), "a")[1] == []


def test_the_curve_is_no_part_of_what_a_trial_is(make_spec: MakeSpec) -> None:
    plain, observed = make_spec(), make_spec(**EVERY)
    assert plain.digest("corpus", "core") == observed.digest("corpus", "core")
