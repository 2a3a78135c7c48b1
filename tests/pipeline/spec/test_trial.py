from __future__ import annotations

import re
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from evenload.pipeline.errors import SpecError
from evenload.pipeline.spec.sweep import SweepSpec, load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial
from evenload.pipeline.spec.yaml_text import mapping_of_yaml, yaml_of

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


@pytest.mark.parametrize(
    ("model", "balancer", "words"),
    [
        ({"gate": "sqrt_softplus"}, {"kind": "quantile"}, "use balancer.method: exact"),
        ({"gate": "sqrt_softplus"}, {"kind": "sinkhorn"}, "use another rule"),
        ({"num_groups": 4, "top_groups": 2}, {"kind": "expert_choice"}, "no token chooses groups"),
        ({}, {"kind": "sign", "aux": {"groups": 5}}, "does not divide model.num_experts"),
        ({}, {"kind": "aux_loss", "groups": 5}, "does not divide model.num_experts"),
        ({}, {"kind": "none", "aux": {}}, "use kind='aux_loss'"),
        ({}, {"kind": "sign", "aux": {"coefficient": -1}}, "coefficient=-1"),
        ({}, {"kind": "sign", "every": 0}, "every=0"),
    ],
)
def test_routers_and_rules_that_do_not_fit_are_refused_with_a_remedy(
    model: dict[str, Any], balancer: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        TrialSpec.model_validate(
            {
                "model": {"preset": "tiny", **model},
                "balancer": balancer,
                "train": {"steps": 2, "batch_sequences": 2, "seq_len": 8},
            }
        )


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
        ("name: s\nbase: {}\nname: t\naxes: {}", ['duplicate key "name"', "line 3"]),
        ("base: {train: {seed: 1, seed: 2}}", ['duplicate key "seed"']),
        ("name: !!bool maybe", ["not readable as YAML", "maybe"]),
        ("name: " + "[" * 3000 + "]" * 3000, ["line 1", "nested too deeply"]),
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


DOUBLED = "".join(f"k{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 26))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a: &a0 [x]\nb: *a0", ["line 2", "*a0", "write the part out"]),
        ("k0: &a0 [x]\n" + DOUBLED, ["line 2", "*a0"]),
        ("a: {<<: {b: 1}}", ["line 1", "<<", "write its keys out"]),
        (f"a: [{'1, ' * 10_001}]", ["10,000 keys and values"]),
        ("a: '" + "x" * 2**20 + "'", ["1,048,576 bytes"]),
        ("8: a", ["the key 8 is no text", "quotes"]),
        ("a: [{b: !!binary aGVsbG8=}]", ["a.0.b", "bytes", "text"]),
        ("a: !!set {x}", ["a: a YAML set"]),
        ("", ["holds nothing"]),
    ],
)
def test_a_document_holds_what_it_says_and_not_more(content: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as error:
        mapping_of_yaml(content.encode(), "it")
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_specs_are_yaml_1_2() -> None:
    text = "a: off\nb: 0100\nc: 1e-4\nd: 2024-01-01\ne: yes\nf: 0o17\ng: 12:30"
    assert mapping_of_yaml(text.encode(), "it") == {
        "a": "off",
        "b": 100,
        "c": 1e-4,
        "d": "2024-01-01",
        "e": "yes",
        "f": 15,
        "g": "12:30",
    }


@pytest.mark.parametrize("load", [yaml.safe_load, lambda text: mapping_of_yaml(text.encode(), "")])
def test_what_is_written_is_read_alike_by_both_versions(load: Callable[[str], Any]) -> None:
    texts = [
        "123456e78901",
        "1e-3",
        "0o17",
        "0100",
        "off",
        "yes",
        "~",
        "2024-01-01",
        ".5",
        "1.",
        "<<",
    ]
    tree = {"texts": texts, "numbers": [1e-5, 1e16, 1, 0.5, True, None], "a": {"b": []}}
    assert load(yaml_of(tree)) == tree


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
