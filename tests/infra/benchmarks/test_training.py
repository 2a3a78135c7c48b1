from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from evenload.pipeline.records.run import RunIdentity
from evenload.pipeline.records.shards import LoadLogSink
from evenload.pipeline.settings import Settings
from infra.benchmarks import (
    language_models,
    separate_processes,
    stack_speed,
    step_profile,
    training,
    trial_overhead,
)

SHAPE = ("tiny", 2, 16)


def only_shards(settings: Settings, run: RunIdentity) -> LoadLogSink:
    return LoadLogSink(settings.trial_dir(run.digest))


def nowhere(_: str) -> None:
    """Replaces `find_spec`, as if transformers were not installed."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_rivals_have_models_of_our_size() -> None:
    """GLM-4.5 has plain attention and exactly our parameters, DeepSeek-V3 about as many."""
    pytest.importorskip("transformers")
    arms = language_models.arm_builders(training.trial(*SHAPE), compiled=False)
    parameters = {name: builders[0]().parameters for name, builders in arms.items()}
    assert parameters["transformers GLM-4.5"] == parameters["evenload"]
    latent = parameters["transformers DeepSeek-V3"]
    assert latent == pytest.approx(parameters["evenload"], rel=0.05)


def test_compiled_arms_are_measured_beside_the_others() -> None:
    spec = training.trial(*SHAPE)
    plain, both = (set(language_models.arm_builders(spec, compiled=flag)) for flag in (False, True))
    assert both - plain >= {"evenload, compiled"}
    assert {name.removesuffix(", compiled") for name in both - plain} <= plain


class Warm:
    """Replaces an arm in its process; the function that builds it returns the seconds per step."""

    def __init__(self, seconds_of: Callable[[], float]) -> None:
        self.warm_seconds, self.closed = seconds_of(), False

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("seconds", [(0.2, 0.1, 0.3), (0.1,), (0.3, 0.2, 0.1)])
def test_the_fastest_variant_of_an_arm_is_kept(
    monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, ...]
) -> None:
    arms: list[Warm] = []

    def begin(seconds_of: Callable[[], float]) -> Warm:
        assert [arm.closed for arm in arms].count(False) < 2, "more than two run at once"
        arms.append(Warm(seconds_of))
        return arms[-1]

    monkeypatch.setattr(separate_processes, "ArmProcess", begin)
    best = separate_processes.fastest([partial(float, second) for second in seconds])
    assert best.warm_seconds == min(seconds)
    assert [arm for arm in arms if not arm.closed] == [best]


def dies() -> language_models.Arm:
    raise SystemExit(3)


@pytest.mark.slow
def test_an_arm_that_dies_raises_with_its_exit_code() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        separate_processes.ArmProcess(dies)


def test_the_profile_puts_every_operation_into_one_kind() -> None:
    assert step_profile._kind("aten::_scaled_dot_product_flash_attention_for_cpu") == "attention"
    assert step_profile._kind("aten::_grouped_mm") == "matrix products"
    assert step_profile._kind("aten::baddbmm") == "matrix products"
    assert step_profile._kind("aten::_log_softmax") == "loss"
    assert step_profile._kind("aten::cumsum") == "routing"
    assert step_profile._kind("aten::mul_") == "other element-wise"
    assert step_profile._kind("RmsNormBackward") == step_profile.DISPATCH


@pytest.mark.slow
def test_the_whole_document_is_json_and_has_a_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(language_models, "find_spec", nowhere)
    monkeypatch.setattr(trial_overhead, "default_sinks", only_shards)
    monkeypatch.setattr(stack_speed, "default_sinks", only_shards)
    monkeypatch.setattr(stack_speed, "WHOLE_STEPS", 2)
    document = json.loads(json.dumps(training.run(quick=True)))
    assert {stack["what"] for stack in document["stacks"]} == {"steps", "whole trials"}
    assert 0 < document["overhead"]["heartbeat_share"] < 1
    (shape,) = document["steps"]
    assert shape["missing"] == {"transformers": "pip install transformers"}
    (mine,) = shape["arms"].values()
    assert mine["slower_than"] == {"evenload": {"median": 1.0, "low": 1.0, "high": 1.0}}
    assert mine["tokens_per_second"] == pytest.approx(32e3 / mine["step_ms"]["median"])
    assert mine["milliseconds_by_kind"]["matrix products"] > 0
    text = training.table(document)
    assert "tiny, 2 x 16 tokens" in text
    assert "missing: transformers: pip install transformers" in text
    assert text.count("whole trials") == 1
