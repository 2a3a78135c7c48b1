from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch

from evenload.pipeline.errors import SpecError
from evenload.pipeline.figures.loads import max_vio
from evenload.pipeline.records.fence import Fence
from evenload.pipeline.records.run import StepRecord
from evenload.pipeline.records.shards import LoadLogSink, newest_checkpoint, read_history
from evenload.pipeline.settings import Settings
from evenload.pipeline.spec.trial import TrialSpec
from evenload.pipeline.states import Command, Progress, TrialState
from evenload.workers.training import checkpoint, loop
from evenload.workers.training.loop import TrainOutcome

MakeSpec = Callable[..., TrialSpec]
RunTrial = Callable[..., TrainOutcome]
DIGEST = "0123456789abcdef"


def stop_at(step: int) -> Callable[[Progress], Command]:
    return lambda progress: Command.STOP if progress.step == step else Command.CONTINUE


def saved(outcome: TrainOutcome) -> checkpoint.Checkpoint:
    path = Path(urlparse(outcome.checkpoint_uri).path)
    return checkpoint.load(path)


@pytest.mark.parametrize(
    "balancer",
    [
        {"kind": "none"},
        {"kind": "sign", "step_size": 0.01},
        {"kind": "aux_loss", "coefficient": 0.01, "scope": "global"},
        {"kind": "random_router"},  # draws from the random state that a checkpoint keeps
        {"kind": "kalman"},  # remembers more than a bias
    ],
    ids=lambda balancer: balancer["kind"],
)
def test_a_run_stopped_at_step_10_equals_the_uninterrupted_one_bit_for_bit(
    make_spec: MakeSpec,
    run_trial: RunTrial,
    settings: Settings,
    balancer: dict[str, object],
) -> None:
    spec = make_spec(balancer=balancer, train={"micro_batch_sequences": 2})
    whole = run_trial(spec, digest="whole")
    first_part = run_trial(spec, report=stop_at(10), digest="stopped")
    assert (first_part.state, first_part.result) == (TrialState.QUEUED, {})
    assert newest_checkpoint(settings.trial_dir("stopped")) == 10
    resumed = run_trial(spec, digest="stopped")

    assert resumed.state is TrialState.TRAINED
    first, second = saved(whole), saved(resumed)
    for name, tensor in first.model.items():
        assert torch.equal(tensor, second.model[name]), name
    assert torch.equal(first.balancer["bias_LE"], second.balancer["bias_LE"])
    histories = [read_history(settings.trial_dir(name)) for name in ("whole", "stopped")]
    assert histories[0].step_S.tolist() == histories[1].step_S.tolist() == list(range(1, 21))
    assert (histories[0].count_SLE == histories[1].count_SLE).all()
    assert (histories[0].bias_SLE == histories[1].bias_SLE).all()
    assert (histories[0].scalars["loss"] == histories[1].scalars["loss"]).all()
    timed = {"train_seconds", "tokens_per_second"}
    assert {k: v for k, v in whole.result.items() if k not in timed} == {
        k: v for k, v in resumed.result.items() if k not in timed
    }


def test_a_run_killed_between_checkpoints_repeats_only_the_lost_steps(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    class Killed(BaseException):
        pass

    def kill_at_12(progress: Progress) -> Command:
        if progress.step == 12:
            raise Killed
        return Command.CONTINUE

    spec = make_spec()
    whole = run_trial(spec, digest="whole")
    with pytest.raises(Killed):
        run_trial(spec, report=kill_at_12)
    assert newest_checkpoint(settings.trial_dir(DIGEST)) == 7
    resumed = run_trial(spec)
    assert resumed.result["max_vio"] == whole.result["max_vio"]
    steps = read_history(settings.trial_dir(DIGEST)).step_S
    assert steps.tolist() == list(range(1, 21))


def test_whoever_finds_a_checkpoint_finds_the_records_before_it(
    make_spec: MakeSpec,
    run_trial: RunTrial,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told to stop between two logged steps: nothing else writes the last records."""
    recorded: dict[int, list[int]] = {}

    def note(directory: Path, saving: checkpoint.Checkpoint, fence: Fence) -> Path:
        recorded[saving.step] = read_history(settings.trial_dir(DIGEST)).step_S.tolist()
        return save(directory, saving, fence)

    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", note)
    monkeypatch.setattr(loop, "FLUSH_INTERVAL_SECONDS", 3600)
    run_trial(make_spec(), report=stop_at(10))
    assert recorded == {7: list(range(1, 8)), 10: list(range(1, 11))}


def test_progress_judges_imbalance_by_the_target(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    reports: list[Progress] = []

    def note(progress: Progress) -> Command:
        reports.append(progress)
        return Command.CONTINUE

    target = (0.3, *[0.1] * 7)
    outcome = run_trial(make_spec(balancer={"kind": "sign", "target": target}), report=note)
    count_SLE = read_history(settings.trial_dir(DIGEST)).count_SLE
    assert reports[-1].max_vio == pytest.approx(max_vio(count_SLE[-1], target).mean())
    assert outcome.result["max_vio"] == pytest.approx(max_vio(count_SLE[-5:], target).mean())
    assert abs(max_vio(count_SLE[-1]).mean() - reports[-1].max_vio) > 0.1


def test_every_assignment_is_counted_once(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    spec = make_spec(train={"micro_batch_sequences": 2, "recompute": True})
    outcome = run_trial(spec)
    count_SL = read_history(settings.trial_dir(DIGEST)).count_SLE.sum(axis=-1)
    assert np.unique(count_SL).tolist() == [4 * 32 * 2]
    assert outcome.result["count_check"] == 1.0


def test_recomputation_and_micro_batches_change_no_count(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    plain = make_spec(train={"steps": 3})
    run_trial(plain, digest="plain")
    run_trial(make_spec(train={"steps": 3, "recompute": True}), digest="recomputed")
    run_trial(make_spec(train={"steps": 1, "micro_batch_sequences": 1}), digest="split")
    counts = {
        name: read_history(settings.trial_dir(name)).count_SLE
        for name in ("plain", "recomputed", "split")
    }
    assert (counts["plain"] == counts["recomputed"]).all()
    assert (counts["plain"][0] == counts["split"][0]).all()


def test_the_loss_falls_and_the_sign_rule_evens_the_load(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    train = {"steps": 60, "learning_rate": 0.01}
    balanced = run_trial(make_spec(train=train, balancer={"kind": "sign", "step_size": 0.01}))
    plain = run_trial(make_spec(train=train, balancer={"kind": "none"}), digest="none")
    loss_S = read_history(settings.trial_dir(DIGEST)).scalars["loss"]
    assert loss_S[-5:].mean() < loss_S[:5].mean() - 0.5
    assert balanced.result["max_vio"] < 0.8 * plain.result["max_vio"]


def test_the_error_of_a_diverging_run_names_step_and_remedy(
    make_spec: MakeSpec, run_trial: RunTrial
) -> None:
    with pytest.raises(FloatingPointError, match=r"step \d+: .*lower train.learning_rate"):
        run_trial(make_spec(train={"learning_rate": 1e18, "grad_clip": 1e18}))


def test_records_are_written_together_and_not_too_often(
    make_spec: MakeSpec, run_trial: RunTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first logged step is 2, step 10 has a checkpoint, and 20 is the last."""
    written: list[int] = []

    def note(sink: LoadLogSink, records: Sequence[StepRecord]) -> None:
        written.append(records[-1].step)
        log_steps(sink, records)

    log_steps = LoadLogSink.log_steps
    monkeypatch.setattr(LoadLogSink, "log_steps", note)
    monkeypatch.setattr(loop, "FLUSH_INTERVAL_SECONDS", 3600)
    run_trial(make_spec(runtime={"log_every": 2, "checkpoint_every": 10}))
    assert written == [2, 10, 20]


def test_a_corpus_that_is_too_small_is_refused_before_training(
    make_spec: MakeSpec, run_trial: RunTrial, settings: Settings
) -> None:
    with pytest.raises(SpecError, match="too few for one batch"):
        run_trial(make_spec(train={"batch_sequences": 4096}))
    assert not settings.trial_dir(DIGEST).exists()
