from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.spec_file import mapping_of_yaml
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial

BASE: dict[str, Any] = {
    "model": {"preset": "tiny"},
    "train": {"steps": 4, "batch_sequences": 4, "seq_len": 16},
    "balancer": {"kind": "sign", "step_size": 0.01},
}
AXES = "name: s\nbase: {}\naxes: {train.seed: [0]}"


def trial(**changes: dict[str, Any]) -> TrialSpec:
    return TrialSpec.model_validate({k: v | changes.get(k, {}) for k, v in BASE.items()})


def sweep(axes: dict[str, list[Any]]) -> SweepSpec:
    return SweepSpec(name="s", base=BASE, axes=axes)


def test_later_axes_vary_fastest() -> None:
    spec = sweep({"model.num_experts": [4, 8], "balancer.step_size": [0.1, 0.2]})
    assert [(t.model.num_experts, t.balancer.step) for t in spec.expand()] == [
        (4, 0.1),
        (4, 0.2),
        (8, 0.1),
        (8, 0.2),
    ]


def test_equal_points_expand_to_one_trial() -> None:
    assert len(sweep({"train.seed": [0, 0, 1]}).expand()) == 2


def test_a_preset_and_its_fields_give_the_same_trial() -> None:
    written_out = trial().model_dump(mode="json")
    assert TrialSpec.model_validate(written_out).digest("c", "v") == trial().digest("c", "v")


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"top_k": 1}},
        {"balancer": {"step_size": 0.02}},
        {"train": {"seed": 1}},
        {"train": {"steps": 5}},
    ],
)
def test_every_number_that_matters_changes_the_digest(change: dict[str, Any]) -> None:
    assert trial(**change).digest("c", "v") != trial().digest("c", "v")


def test_corpus_and_core_version_change_the_digest_and_cadence_does_not() -> None:
    same = TrialSpec.model_validate(BASE | {"runtime": {"log_every": 3}})
    assert same.digest("c", "v") == trial().digest("c", "v")
    assert trial().digest("other", "v") != trial().digest("c", "v")
    assert trial().digest("c", "other") != trial().digest("c", "v")


def test_sweep_id_names_the_content() -> None:
    first, second = sweep({"train.seed": [0]}), sweep({"train.seed": [1]})
    assert first.sweep_id() == sweep({"train.seed": [0]}).sweep_id() != second.sweep_id()
    assert first.sweep_id().startswith("s-")


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"model": {"preset": "tiny", "top_k": 17}}, ["top_k=17", "num_experts=16", "lower"]),
        ({"model": {"preset": "tiny", "width": 3}}, ["model.width=3", "unknown key"]),
        ({"model": {"preset": "tony"}}, ["preset='tony'", "tiny"]),
        ({"model": {"preset": "tiny", "num_heads": 7}}, ["d_model=64", "num_heads=7"]),
        ({"model": {"preset": "tiny", "vocab_size": 99}}, ["vocab_size=99", "at least 256"]),
        ({"train": BASE["train"] | {"steps": "ten"}}, ["train.steps", '"ten"', "integer"]),
        ({"train": BASE["train"] | {"micro_batch_sequences": 3}}, ["batch_sequences=4", "divisor"]),
        ({"balancer": {"kind": "sing"}}, ["'sing'", "sign"]),
        ({"balancer": {"kind": "none", "step_size": 1}}, ["step_size=1", "unknown key"]),
        ({"balancer": {"kind": "sign", "step_size": -1}}, ["step_size=-1", "greater than"]),
        ({"balancer": {"kind": "none", "target": [0.5, 0.5]}}, ["2 shares", "num_experts=16"]),
        ({"data": {"kind": "files"}}, ["glob", "required"]),
        ({"balancer": {"kind": ["sign"]}}, ["kind=['sign']", "choose one of"]),
        ({"model": {"preset": ["tiny"]}}, ["preset=['tiny']", "choose one of"]),
        ({"train": BASE["train"] | {"steps": 2**31}}, ["train.steps=2147483648", "less than"]),
        ({"train": BASE["train"] | {"steps": int("9" * 400)}}, ["train.steps=99", "less than"]),
        ({"train": BASE["train"] | {"seed": 2**63}}, ["train.seed=9223", "less than"]),
        ({"model": {"preset": "tiny", "d_dense": 10**400}}, ["model.d_dense=10", "less than"]),
        ({"train": BASE["train"] | {"learning_rate": inf}}, ["learning_rate", "finite"]),
        ({"train": BASE["train"] | {"grad_clip": inf}}, ["grad_clip", "finite"]),
        ({"train": BASE["train"] | {"weight_decay": inf}}, ["weight_decay", "finite"]),
    ],
)
def test_bad_input_names_key_value_and_remedy(
    tree: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    import yaml

    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(BASE | tree))
    with pytest.raises(SpecError) as error:
        load_trial(path)
    assert [word for word in words if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["No such file"]),
        ("- a list", ["mapping"]),
        ("a: [", ["YAML"]),
        ("name: s\nbase: {}\naxes: {}", ["axes"]),
        ("name: s\nbase: {}\naxes: {train.seed: []}", ["axes.train.seed"]),
        ("name: s\nbase: {}\naxes: {train.seed: [0]}\nnotes: x", ["notes", "unknown key"]),
        ("name: s/t\nbase: {}\naxes: {train.seed: [0]}", ["name", "pattern"]),
        ("name: s\nbase: {}\nname: t\naxes: {}", ["key 'name' is given twice", "line 3"]),
        ("base: {train: {seed: 1, seed: 2}}", ["key 'seed' is given twice"]),
        ("name: 2024-99-99", ["not readable as YAML", "month"]),
        ("name: !!bool maybe", ["not readable as YAML", "maybe"]),
        ("name: " + "[" * 3000 + "]" * 3000, ["not readable as YAML", "nested too deeply"]),
        (f"{AXES}\npriority: {10**23}", ["priority=1000", "less than"]),
        (f"{AXES}\nmax_retries: {2**31}", ["max_retries=2147483648", "less than"]),
        (f"{AXES}\nsearch: {{kind: random, seed: {2**63}}}", ["seed=9223", "less than"]),
        (f"{AXES}\nconfirm: {{seeds: [{2**63}]}}", ["confirm.seeds.0=9223", "less than"]),
        (f"{AXES}\nobjective: {{target_loss: .inf}}", ["objective.target_loss", "finite"]),
    ],
)
def test_unreadable_sweeps_are_refused(
    content: str | None, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "sweep.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SpecError) as error:
        load_sweep(path)
    assert [word for word in words if word not in str(error.value)] == []
    assert "\n" not in str(error.value)


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    """Keys that `<<` merges may also be given beside it; they are not duplicates."""
    path = tmp_path / "trial.yaml"
    merged = "short: &a {seed: 1}\nlonger: [&b {<<: *a, seed: 2}]\ntrain: {<<: *b, seed: 3}"
    path.write_text(merged)
    tree = mapping_of_yaml(path.read_bytes(), "it")
    assert tree == {"short": {"seed": 1}, "longer": [{"seed": 2}], "train": {"seed": 3}}


def test_an_invalid_grid_point_is_named() -> None:
    with pytest.raises(ValidationError, match=r'"model.top_k": 99'):
        sweep({"model.top_k": [2, 99]})


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        trial().train.steps = 9  # type: ignore[misc]


def test_labels_show_the_step_size_and_parameters_that_are_not_default() -> None:
    labels = [
        trial(balancer=balancer).balancer.label
        for balancer in ({}, {"schedule": "inverse", "centred": False})
    ]
    assert labels == ["sign 0.01", "sign 0.01 centred=False schedule=inverse"]
