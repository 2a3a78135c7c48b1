"""The kinds of `model`: which one a mapping is, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from evenload.pipeline.errors import SpecError, first_message
from evenload.pipeline.spec.own_model import ModelSpec
from evenload.pipeline.spec.permitted_paths import check_paths
from evenload.pipeline.spec.stacking import can_stack
from evenload.pipeline.spec.trial import TrialSpec

OTHERS: dict[str, dict[str, Any]] = {
    "huggingface": {"kind": "huggingface", "path": "folder"},
    "python": {"kind": "python", "factory": "package.module:function", "vocab_size": 300},
}


def trial(model: dict[str, Any], **changes: Any) -> TrialSpec:
    train = {"steps": 2, "batch_sequences": 2, "seq_len": 8, **changes.pop("train", {})}
    content = {"model": model, "train": train, "balancer": {"kind": "none"}, **changes}
    return TrialSpec.model_validate(content)


def message(model: dict[str, Any], **changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        trial(model, **changes)
    return first_message(caught.value)


def test_without_a_kind_the_model_is_evenloads_own_and_stored_as_before() -> None:
    plain, named = trial({"preset": "tiny"}), trial({"kind": "own", "preset": "tiny"})
    assert plain == named
    assert plain.own_model.kind == "own"
    assert plain.model_dump(mode="json")["model"].keys() == ModelSpec.model_fields.keys()
    on_a_cpu = plain.train.model_copy(update={"precision": "float32"})  # what auto means there
    resolved = plain.model_copy(update={"train": on_a_cpu})
    assert resolved.digest("c", "v") == "1c68dd83bdac2f8d"


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_survive_their_own_json(kind: str) -> None:
    asked = trial(OTHERS[kind])
    assert TrialSpec.model_validate_json(asked.model_dump_json()) == asked
    assert not can_stack(asked)
    with pytest.raises(SpecError, match=f"model.kind='{kind}': this works with evenload's own"):
        asked.own_model  # noqa: B018
    with pytest.raises(ValueError, match="not built yet"):
        asked.model.load_shape  # noqa: B018


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ({"kind": "torch"}, {}, "model: kind='torch' is unknown; choose one of own, huggingface, "),
        ({"kind": "huggingface"}, {}, "model.path: required; give it a value"),
        (OTHERS["huggingface"] | {"d_model": 3}, {}, "model.d_model=3: unknown key; check its"),
        (
            OTHERS["huggingface"],
            {"train": {"compile": True}},
            "train.compile=true: a model of ",
        ),
        (
            OTHERS["huggingface"],
            {"runtime": {"backend": "triton"}},
            "runtime.backend='triton' ",
        ),
        (OTHERS["python"], {"train": {"recompute": True}}, "train.recompute=true: the model of a "),
        (OTHERS["python"] | {"num_experts": 4}, {}, "model: num_experts=4 is found by building"),
        (OTHERS["python"] | {"factory": "function"}, {}, 'model.factory="function": must'),
        (OTHERS["python"] | {"vocab_size": 9}, {}, "model.vocab_size=9 is smaller than the 256"),
    ],
)
def test_what_does_not_go_together_is_named(
    model: dict[str, Any], changes: dict[str, Any], expected: str
) -> None:
    assert message(model, **changes).startswith(expected)


def test_specs_of_other_users_read_only_the_permitted_folder_and_run_no_code(
    tmp_path: Path,
) -> None:
    inside = trial({"kind": "huggingface", "path": tmp_path / "folder"})
    check_paths(inside.data, tmp_path, inside.model)
    outside = trial({"kind": "huggingface", "path": tmp_path / ".." / "folder"})
    with pytest.raises(SpecError, match=r"model\.path=.* leads out of "):
        check_paths(outside.data, tmp_path, outside.model)
    code = trial(OTHERS["python"])
    with pytest.raises(SpecError, match=r"model\.factory='package.*no code of users runs where"):
        check_paths(code.data, tmp_path, code.model)
    check_paths(code.data, None, code.model)
