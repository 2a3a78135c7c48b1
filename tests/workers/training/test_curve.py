from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink, newest_checkpoint, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, CurvePoint, Progress
from evenload.workers.training.evaluate import evaluate
from evenload.workers.training.loop import TrainOutcome, train

MakeSpec = Callable[..., TrialSpec]
RunTrial = Callable[..., TrainOutcome]
TrainWithCurve = Callable[..., tuple[TrainOutcome, list[CurvePoint]]]
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
        resumed_from_step=newest_checkpoint(settings.trial_dir(digest)),
    )


@pytest.fixture
def train_with_curve(settings: Settings) -> TrainWithCurve:
    """Trains one attempt and returns the points of its learning curve."""

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
            on_curve_point=points.append,
        )
        sink.close()
        return outcome, points

    return run


@pytest.mark.parametrize("kind", ["sign", "random_router"])
def test_a_curve_changes_no_number_of_the_training(
    make_spec: MakeSpec,
    run_trial: RunTrial,
    train_with_curve: TrainWithCurve,
    settings: Settings,
    kind: str,
) -> None:
    """The random router draws from the random state, which scoring must not change."""
    run_trial(make_spec(balancer={"kind": kind}), digest="plain")
    train_with_curve(make_spec(balancer={"kind": kind}, **EVERY), digest="scored")
    plain, scored = (read_history(settings.trial_dir(name)) for name in ("plain", "scored"))
    assert (plain.count_SLE == scored.count_SLE).all()
    assert (plain.bias_SLE == scored.bias_SLE).all()
    assert (plain.scalars["loss"] == scored.scalars["loss"]).all()


def test_points_come_at_regular_steps_and_at_the_end(
    make_spec: MakeSpec, train_with_curve: TrainWithCurve
) -> None:
    outcome, points = train_with_curve(make_spec(**EVERY), "a")
    assert [point.step for point in points] == [8, 16, 20]
    assert [point.tokens for point in points] == [step * 4 * 32 for step in (8, 16, 20)]
    assert points[0].seconds < points[1].seconds < points[2].seconds
    assert points[-1].seconds == pytest.approx(outcome.result["train_seconds"])
    assert points[-1].val_loss < points[0].val_loss


def test_the_last_point_equals_an_evaluation_of_the_same_tokens(
    make_spec: MakeSpec, train_with_curve: TrainWithCurve, settings: Settings
) -> None:
    spec = make_spec(eval={"every_steps": 20, "curve_tokens": 1024, "tokens": 1024})
    outcome, points = train_with_curve(spec, "a")
    figures = evaluate(
        spec,
        settings=settings,
        digest="a",
        checkpoint_uri=outcome.checkpoint_uri,
        sink=LoadLogSink(settings.trial_dir("a")),
        run=identity(spec, "a", settings),
    )
    assert points[0].val_loss == pytest.approx(figures["val_loss"], rel=1e-6)


def test_a_resumed_run_continues_the_same_curve(
    make_spec: MakeSpec, train_with_curve: TrainWithCurve
) -> None:
    spec = make_spec(**EVERY)
    _, whole = train_with_curve(spec, "whole")

    def stop_at_10(progress: Progress) -> Command:
        return Command.STOP if progress.step == 10 else Command.CONTINUE

    _, first = train_with_curve(spec, "stopped", stop_at_10)
    _, second = train_with_curve(spec, "stopped")
    assert [(p.step, p.tokens, p.val_loss) for p in [*first, *second]] == [
        (p.step, p.tokens, p.val_loss) for p in whole
    ]
    assert second[0].seconds > first[-1].seconds


def test_a_point_has_the_imbalance_since_the_last_point(
    make_spec: MakeSpec, train_with_curve: TrainWithCurve, settings: Settings
) -> None:
    _, points = train_with_curve(make_spec(**EVERY), "a")
    count_SLE = read_history(settings.trial_dir("a")).count_SLE
    vio_S = (count_SLE.max(axis=-1) / count_SLE.mean(axis=-1) - 1).mean(axis=-1)
    expected = [vio_S[:8].mean(), vio_S[8:16].mean(), vio_S[16:].mean()]
    assert np.allclose([point.max_vio for point in points], expected)


def test_the_imbalance_of_a_point_is_relative_to_the_target(
    make_spec: MakeSpec, train_with_curve: TrainWithCurve, settings: Settings
) -> None:
    target = (0.3, *[0.1] * 7)
    spec = make_spec(balancer={"kind": "sign", "target": target}, eval={"every_steps": 20})
    _, points = train_with_curve(spec, "a")
    count_SLE = read_history(settings.trial_dir("a")).count_SLE
    assert points[-1].max_vio == pytest.approx(max_vio(count_SLE, target).mean())
    assert abs(max_vio(count_SLE).mean() - points[-1].max_vio) > 0.1


def test_by_default_there_is_no_curve(
    make_spec: MakeSpec, train_with_curve: TrainWithCurve
) -> None:
    assert train_with_curve(make_spec(), "a")[1] == []


def test_the_curve_does_not_change_the_identity_of_a_trial(make_spec: MakeSpec) -> None:
    plain, scored = make_spec(), make_spec(**EVERY)
    assert plain.digest("corpus", "core") == scored.digest("corpus", "core")
