"""Schemas agree with the models, every key is described, and resolved specs are the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from evenload.pipeline.spec.balancers import BALANCERS
from evenload.pipeline.spec.reference import KINDS, mappings_of, resolved, schema
from evenload.pipeline.spec.sweep import load_sweep
from evenload.pipeline.spec.trial import TrialSpec, load_trial

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "infra" / "sweeps").glob("*.yaml"))
CONTENTS = [(path, yaml.safe_load(path.read_text())) for path in FILES]


def kind_of(content: dict[str, Any]) -> str:
    return "sweep" if "axes" in content else "simulation" if "streams" in content else "trial"


def problems(kind: str, content: Any) -> list[str]:
    return [error.message for error in Draft202012Validator(schema(kind)).iter_errors(content)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_valid(kind: str) -> None:
    Draft202012Validator.check_schema(schema(kind))
    json.dumps(schema(kind), allow_nan=False)


@pytest.mark.parametrize(
    ("path", "content"), CONTENTS, ids=lambda value: getattr(value, "stem", "")
)
def test_every_example_file_passes_its_schema(path: Path, content: dict[str, Any]) -> None:
    assert problems(kind_of(content), content) == []


@pytest.mark.parametrize(
    ("kind", "change", "what"),
    [
        ("trial", {"balancer": {"kind": "sign", "step": 0.1}}, "step"),
        ("trial", {"balancer": {"kind": "sing"}}, "sing"),
        ("trial", {"train": {"steps": 0, "batch_sequences": 1, "seq_len": 8}}, "0"),
        ("trial", {"model": {"num_experts": 4}}, "num_experts"),
        ("trial", {"nonsense": 1}, "nonsense"),
        ("sweep", {"base": {"train": {"stepz": 3}}}, "stepz"),
        ("sweep", {"axes": {"train.seed": []}}, "[]"),
        ("simulation", {"rules": [{"kind": "aux_loss"}]}, "aux_loss"),
    ],
)
def test_a_schema_refuses_what_loading_refuses(
    kind: str, change: dict[str, Any], what: str
) -> None:
    content = next(content for _, content in CONTENTS if kind_of(content) == kind)
    assert what in " ".join(problems(kind, content | change))
    with pytest.raises(ValueError, match=r"\w"):
        KINDS[kind].model_validate(content | change)


def test_a_schema_accepts_lists_of_parameters_and_ranges() -> None:
    rules = [{"kind": "sign", "step_size": [0.1, 0.2], "schedule": ["constant", "inverse"]}]
    assert problems("simulation", {"streams": {"s": {"kind": "gaussian"}}, "rules": rules}) == []
    drawn = {"low": 0.1, "high": 1, "log": True}
    sweep = {"name": "x", "base": {"model": {"preset": "tiny"}}, "axes": {"train.seed": drawn}}
    assert problems("sweep", sweep) == []


def described_keys(root: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[Any]:
    for name, value in node["properties"].items():
        inner = list(mappings_of(root, value))
        if name != "kind":
            yield f"{path}.{name}", value.get("description") or (inner and inner[0][1])
        for _, mapping in inner:
            yield from described_keys(root, mapping, f"{path}.{name}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_a_meaning(kind: str) -> None:
    root = schema(kind)
    meanings = dict(described_keys(root, root, kind))
    assert len(meanings) > 20
    assert [key for key, meaning in meanings.items() if not meaning] == []


def test_every_rule_is_in_the_schema_with_its_parameters() -> None:
    root = schema("trial")
    rules = dict(mappings_of(root, root["properties"]["balancer"]))
    assert list(rules) == list(BALANCERS)
    for kind, rule in BALANCERS.items():
        assert rules[kind]["properties"].keys() == {"kind", "target", "aux", *rule.params}


@pytest.mark.parametrize(
    ("path", "content"), CONTENTS, ids=lambda value: getattr(value, "stem", "")
)
def test_a_resolved_file_is_the_same_spec(
    path: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    written = tmp_path / path.name
    written.write_text(yaml.safe_dump(resolved(path), sort_keys=False))
    if kind_of(content) == "sweep":
        assert load_sweep(written).expand() == load_sweep(path).expand()
        model = resolved(path)["base"]["model"]
        filled = "weights" if model.get("kind") == "huggingface" else "num_shared"
        assert filled in model, "presets and defaults are not filled in"
    else:
        model = KINDS[kind_of(content)]
        assert model.model_validate(resolved(written)) == model.model_validate(content)


def test_an_axis_that_a_whole_base_would_override_leaves_the_base_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "presets.yaml"
    base = yaml.safe_load((ROOT / "infra/sweeps/trial.yaml").read_text()) | {"model": {}}
    sweep = {"name": "x", "base": base, "axes": {"model.preset": ["tiny", "small"]}}
    path.write_text(yaml.safe_dump(sweep))
    assert resolved(path)["base"] == base
    assert len(load_sweep(path).expand()) == 2


def test_descriptions_do_not_change_the_digest() -> None:
    """The expected digest was computed before fields had descriptions, when float32 was not yet
    called auto."""
    trial = load_trial(ROOT / "infra" / "sweeps" / "trial.yaml")
    exact = trial.train.model_copy(update={"precision": "float32"})
    trial = trial.model_copy(update={"train": exact})
    assert trial.digest("corpus", "core") == "23b4ed8723c7dc33"
    assert TrialSpec.model_fields["extends"].description, "fields have descriptions"
